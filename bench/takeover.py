"""How long a takeover takes: ``python -m bench.takeover --runs 50 --backend native|compose``.

Starts a Holdfast of its own (plain processes, or a Compose project with its own name), measures, ends
it, and writes ``bench/results/takeover-BACKEND.json`` and ``.md``; ``--only SCENARIO`` renews that part
of them. Times are of one clock: the host's, which the database shares.
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
from functools import partial
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
    "network cut: claimed by a peer": (None, None, LEASE_SECONDS + 1),
    "SIGTERM: claimed by a peer after the drain's limit": (None, None, 1.0),
    "SIGTERM: an idle worker ends": (None, None, 1.0),
    "PostgreSQL away 20 s: the slowest of 25 workflows goes on": (None, None, 2.0),
    "idle: transactions per second per executor, lease and sweep": (None, None, 10.0),
}
SCENARIOS = ("kill", "saturated", "pause", "cut", "terminate", "outage", "idle", "lease")
ORDER = (
    "SIGKILL, free slots",
    "SIGKILL, saturated",
    "SIGSTOP",
    "network cut",
    "SIGTERM",
    "PostgreSQL away 20 s",
    "idle",
)
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
    """All scenarios, or ``only`` that one, into ``samples``."""
    home = Path(tempfile.mkdtemp(prefix="holdfast-bench-"))

    def on_free_slots(stack: Stack) -> dict[str, Callable[[], None]]:
        kills = partial(
            scenarios.kill, stack, samples, runs, numbers=3, prefix="SIGKILL, free slots", say=say
        )
        found: dict[str, Callable[[], None]] = {
            "kill": kills,
            "pause": partial(scenarios.pause, stack, samples, runs, say=say),
            "terminate": partial(scenarios.terminate, stack, samples, runs, say=say),
            "outage": partial(scenarios.outage, stack, samples, runs, seconds=20, say=say),
            "idle": partial(scenarios.idle_cost, stack, samples, seconds=30, say=say),
        }
        if isinstance(stack, NativeStack):
            found["lease"] = partial(lease_and_sweep, stack, samples, say)
        if isinstance(stack, ComposeStack):
            found["cut"] = partial(scenarios.cut, stack, samples, runs, say=say)
        return found

    try:
        if only != "saturated":
            # More slots than numbers: the process that takes over has a free slot.
            with running_stack(new_stack(backend, home / "a", workers=3, HOLDFAST_CPU_SLOTS="4")) as stack:
                for name, scenario in on_free_slots(stack).items():
                    if only in ("", name):
                        scenario()
        if only in ("", "saturated"):
            with running_stack(new_stack(backend, home / "b", workers=3, HOLDFAST_CPU_SLOTS="1")) as stack:
                scenarios.kill(stack, samples, runs, numbers=12, prefix="SIGKILL, saturated", say=say)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def lease_and_sweep(stack: NativeStack, samples: Samples, say: Say) -> None:
    """Transactions of five executors that only send heartbeats and sweep, beside the idle stack."""
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
    say(f"lease and sweep: {each:.2f} transactions per second per executor")
    scenarios.add(samples, "idle: transactions per second per executor, lease and sweep", each)


def percentile(values: list[float], share: float) -> float:
    """Nearest rank: a value that occurred."""
    return sorted(values)[max(0, math.ceil(len(values) * share) - 1)]


def summary(measured: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Figures of each name, with whether they keep their limits."""
    rows = []
    for name, each in measured.items():
        values = each["samples"]
        figures = (statistics.median(values), percentile(values, 0.95), max(values))
        limits = LIMITS.get(name, (None, None, None))
        keys = ("median", "p95", "max")
        rows.append(
            {
                "name": name,
                "at": each["at"],
                "load": each["load"],
                "runs": len(values),
                **{key: round(value, 3) for key, value in zip(keys, figures, strict=True)},
                "limits": {k: limit for k, limit in zip(keys, limits, strict=True) if limit is not None},
                "holds": all(
                    limit is None or value <= limit for value, limit in zip(figures, limits, strict=True)
                ),
            }
        )
    return sorted(rows, key=lambda row: ORDER.index(str(row["name"]).split(":")[0]))


def markdown(report: dict[str, Any]) -> str:
    """The report as a table."""
    lines = [
        f"# Takeover, {report['backend']}",
        "",
        f"{report['cpus']} CPUs, Python {report['python']}; load is the "
        "machine's, of one minute, at the end of the measurement. Seconds, except the idle lines. Written by "
        f"`python -m bench.takeover --backend {report['backend']} --runs 50`, or in pieces with `--only`.",
        "",
        "| what | runs | median | p95 | max | limit | | load | measured |",
        "|---|--:|--:|--:|--:|---|---|--:|---|",
    ]
    for row in report["rows"]:
        limit = ", ".join(f"{key} ≤ {value:g}" for key, value in row["limits"].items())
        mark = ("holds" if row["holds"] else "**missed**") if limit else ""
        lines.append(
            f"| {row['name']} | {row['runs']} | {row['median']:.3f} | {row['p95']:.3f} | {row['max']:.3f} "
            f"| {limit} | {mark} | {row['load']:.0f} | {row['at']} |"
        )
    return "\n".join(lines) + "\n"


def write(backend: str, samples: Samples) -> dict[str, Any]:
    """Puts what was measured into the backend's report, in place of older figures of the same names."""
    path = RESULTS / f"takeover-{backend}.json"
    measured: dict[str, dict[str, Any]] = (
        json.loads(path.read_text("utf-8"))["measured"] if path.exists() else {}
    )
    now = {"at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "load": round(os.getloadavg()[0], 1)}
    measured |= {name: {**now, "samples": values} for name, values in samples.items() if values}
    report = {
        "backend": backend,
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "rows": summary(measured),
        "measured": measured,
    }
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    path.with_suffix(".md").write_text(markdown(report), "utf-8")
    return report


def main() -> int:
    """Entry point; exit code 0 only if every limit holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="of each scenario; the reports have 50")
    parser.add_argument("--backend", choices=["native", "compose"], default="native")
    parser.add_argument("--only", default="", choices=["", *SCENARIOS], help="one scenario")
    options = parser.parse_args()
    if options.backend == "compose":
        build = ["docker", "compose", "build", "--quiet"]
        subprocess.run(build, cwd=ROOT, env={**os.environ, "HOLDFAST_IMAGE": IMAGE}, check=True)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    samples: Samples = {}
    trouble = False
    try:
        measure(samples, options.backend, options.runs, options.only, say)
    except AssertionError as error:
        # What was measured before is worth keeping.
        trouble = True
        say(str(error))
    report = write(options.backend, samples)
    print(markdown(report))
    return 0 if not trouble and all(row["holds"] for row in report["rows"] if row["name"] in samples) else 1


if __name__ == "__main__":
    sys.exit(main())
