"""How long a takeover takes: ``python -m bench.takeover --runs 50 --backend native|compose``.

Starts a Holdfast of its own (plain processes, or a Compose project with its own name), measures, ends
it, and writes ``bench/results/takeover-BACKEND.json`` and ``.md``. Times are of one clock: the host's,
which the database shares.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import scenarios
from bench.scenarios import DRAIN_SECONDS, LEASE_SECONDS, Samples, Say
from tests.support.compose_stack import ComposeStack
from tests.support.native_stack import NativeStack
from tests.support.stack import ROOT, Stack, running_stack

RESULTS = Path(__file__).parent / "results"
IMAGE = "holdfast-bench"
# From the issue: seconds for the median, the 95th percentile and the maximum; None is no promise.
LIMITS: dict[str, tuple[float | None, float | None, float | None]] = {
    "SIGKILL, free slots: first claimed by a peer": (0.5, 1.0, None),
    "SIGSTOP: claimed by a peer": (None, None, LEASE_SECONDS + 1),
    "SIGTERM: claimed by a peer after the drain's limit": (None, None, 1.0),
    "SIGTERM: an idle worker ends": (None, None, 1.0),
    "PostgreSQL away 20 s: the slowest of 25 workflows goes on": (None, None, 2.0),
    "idle: transactions a second and executor, lease and sweep": (None, None, 10.0),
}
SETTINGS = {
    "HOLDFAST_DRAIN_SECONDS": f"{DRAIN_SECONDS:g}",
    "HOLDFAST_FIBONACCI_MAX_N": "38",
    "HOLDFAST_CHAOS": "true",
}


def new_stack(backend: str, home: Path, *, workers: int, **settings: str) -> Stack:
    """A stack of that backend, not started yet."""
    if backend == "native":
        return NativeStack(home, workers=workers, **SETTINGS, **settings)
    return ComposeStack(IMAGE, workers=workers, **SETTINGS, **settings)


def measure(samples: Samples, backend: str, runs: int, only: str, say: Say) -> None:
    """All scenarios whose name holds ``only``, into ``samples``."""
    few = max(3, runs // 5)
    home = Path(tempfile.mkdtemp(prefix="holdfast-bench-"))

    def scenario(name: str, run: Callable[[], Samples]) -> None:
        if only in name:
            samples.update(run())

    try:
        # More slots than numbers: whoever takes over has a place free.
        with running_stack(new_stack(backend, home / "a", workers=3, HOLDFAST_CPU_SLOTS="4")) as stack:
            free = "SIGKILL, free slots"
            scenario("kill", lambda: scenarios.kill(stack, runs, numbers=3, prefix=free, say=say))
            scenario("pause", lambda: scenarios.pause(stack, few, say=say))
            scenario("terminate", lambda: scenarios.terminate(stack, few, say=say))
            outages = max(1, min(3, runs // 10))
            scenario("outage", lambda: scenarios.outage(stack, outages, seconds=20, say=say))
            scenario("idle", lambda: scenarios.idle_cost(stack, seconds=30, say=say))
            if isinstance(stack, NativeStack):
                native = stack
                scenario("idle", lambda: lease_and_sweep(native, say))
        if only in "saturated":
            with running_stack(new_stack(backend, home / "b", workers=3, HOLDFAST_CPU_SLOTS="1")) as stack:
                full = "SIGKILL, saturated"
                half = max(3, runs // 2)
                samples.update(scenarios.kill(stack, half, numbers=12, prefix=full, say=say))
    finally:
        shutil.rmtree(home, ignore_errors=True)


def lease_and_sweep(stack: NativeStack, say: Say) -> Samples:
    """The same for five executors that do nothing but beat and look, beside the idle stack."""
    code = "from bench.idle import hold; hold(5)"
    environment = {
        **os.environ,
        "HOLDFAST_DATABASE_HOST": "127.0.0.1",
        "HOLDFAST_DATABASE_PORT": str(stack.state["postgres"]["port"]),
        "HOLDFAST_DATABASE_NAME": "holdfast",
        "HOLDFAST_DATABASE_USER": "holdfast_worker",
        "HOLDFAST_DATABASE_PASSFILE": stack.state["passfiles"]["worker"],
    }

    def rate() -> float:
        begun, before = time.monotonic(), scenarios.transactions(stack)
        time.sleep(20)
        return (scenarios.transactions(stack) - before) / (time.monotonic() - begun)

    without = rate()
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None and child.stdout.readline()
        time.sleep(3)
        each = (rate() - without) / 5
    finally:
        child.terminate()
        child.wait()
    say(f"lease and sweep: {each:.2f} transactions a second and executor")
    return {"idle: transactions a second and executor, lease and sweep": [round(each, 3)]}


def percentile(values: list[float], share: float) -> float:
    """Nearest rank: a value that occurred."""
    return sorted(values)[max(0, math.ceil(len(values) * share) - 1)]


def summary(samples: Samples) -> list[dict[str, Any]]:
    """Figures of each name, with whether they keep their limits."""
    rows = []
    for name, values in samples.items():
        if not values:
            continue
        figures = (statistics.median(values), percentile(values, 0.95), max(values))
        limits = LIMITS.get(name, (None, None, None))
        holds = all(limit is None or value <= limit for value, limit in zip(figures, limits, strict=True))
        keys = ("median", "p95", "max")
        rows.append(
            {
                "name": name,
                "runs": len(values),
                **{key: round(value, 3) for key, value in zip(keys, figures, strict=True)},
                "limits": {k: limit for k, limit in zip(keys, limits, strict=True) if limit is not None},
                "holds": holds,
            }
        )
    return rows


def markdown(report: dict[str, Any]) -> str:
    """The report as a table."""
    lines = [
        f"# Takeover, {report['backend']}",
        "",
        f"{report['at']}, {report['cpus']} CPUs, load {report['load']}, Python {report['python']}. Seconds, "
        "except the last lines; `python -m bench.takeover` writes this.",
        "",
        "| what | runs | median | p95 | max | limit | |",
        "|---|--:|--:|--:|--:|---|---|",
    ]
    for row in report["rows"]:
        limit = ", ".join(f"{key} ≤ {value:g}" for key, value in row["limits"].items())
        mark = ("holds" if row["holds"] else "**missed**") if limit else ""
        lines.append(
            f"| {row['name']} | {row['runs']} | {row['median']:.3f} | {row['p95']:.3f} | {row['max']:.3f} "
            f"| {limit} | {mark} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Entry point; exit code 0 only if every limit holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50, help="runs of the kills; the dearer ones have fewer")
    parser.add_argument("--backend", choices=["native", "compose"], default="native")
    parser.add_argument("--only", default="", help="kill, pause, terminate, outage, idle or saturated")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args()
    if options.backend == "compose":
        build = ["docker", "compose", "build", "--quiet"]
        subprocess.run(build, cwd=ROOT, env={**os.environ, "HOLDFAST_IMAGE": IMAGE}, check=True)
    load = os.getloadavg()[0]

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    samples: Samples = {}
    trouble = ""
    try:
        measure(samples, options.backend, options.runs, options.only, say)
    except AssertionError as error:
        # What was measured before is worth keeping.
        trouble = str(error)
        say(trouble)
    rows = summary(samples)
    report = {
        "backend": options.backend,
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpus": len(os.sched_getaffinity(0)),
        "load": f"{load:.1f} before, {os.getloadavg()[0]:.1f} after",
        "python": platform.python_version(),
        "trouble": trouble,
        "rows": rows,
        "samples": samples,
    }
    RESULTS.mkdir(exist_ok=True)
    name = f"takeover-{options.backend}" + (f"-{options.only}" if options.only else "")
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    (RESULTS / f"{name}.md").write_text(markdown(report), "utf-8")
    print(json.dumps(report, indent=1) if options.json else markdown(report))
    return 0 if not trouble and all(row["holds"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
