"""What attaching costs a DBOS application: ``python -m bench.attached [--pairs 9] [--write]``.

Compares `bench.attached_app` as it is with the same under ``holdfast run``, in one run: each pair of rounds
starts both, plain and attached in turn first, on databases of one PostgreSQL without fsync. A ratio compares
rounds of one pair. ``--write`` writes ``docs/reports/attaching.md``.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from holdfast.dbos_adapter.preparing import prepare_database
from tests.support.attached import UNDER_HOLDFAST
from tests.support.database import Server

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "docs" / "reports" / "attaching.md"
KINDS = ("plain", "attached")
_CHUNKS, _STEPS = 12, 60
"""Chunks of a round, which alternate between the two processes, and steps of a chunk."""
_IDLE_SECONDS = 20.0
_IDLE_PAIRS = 3


@dataclass
class Samples:
    """What the rounds measured, by kind; one entry for each pair."""

    start_seconds: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    step_seconds: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    step_cpu_seconds: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    memory_mb: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    helper_mb: list[float] = field(default_factory=list)
    transactions: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})


class Application:
    """One process of the application."""

    def __init__(self, kind: str, url: str) -> None:
        under = UNDER_HOLDFAST if kind == "attached" else ()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
        begun = time.perf_counter()
        self._process = subprocess.Popen(
            [*under, sys.executable, str(ROOT / "bench" / "attached_app.py")],
            env={**inherited, "BENCH_URL": url, "HOLDFAST_REQUIRED": "true", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        ready = self._read()
        assert ready == "ready", f"ended with {self._process.wait()}"
        self.start_seconds = time.perf_counter() - begun

    def steps(self, count: int, backends: Sequence[int] = ()) -> tuple[float, float]:
        """Runs a workflow of ``count`` steps. Returns the seconds and the CPU seconds of one step.

        The CPU is that of the thread that runs the workflow, and of DBOS's ``backends`` in PostgreSQL.
        """
        assert self._process.stdin is not None
        threads = [f"{self._process.pid}/task/{self._process.pid}", *map(str, backends)]
        before = sum(map(_cpu_seconds, threads))
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        seconds = float(self._read())
        return seconds / count, (sum(map(_cpu_seconds, threads)) - before) / count

    def memory_mb(self) -> tuple[float, float]:
        """Returns the memory that only this process uses, and that of its children."""
        threads = Path(f"/proc/{self._process.pid}/task").iterdir()
        children = {int(pid) for thread in threads for pid in (thread / "children").read_text().split()}
        return _unshared_mb(self._process.pid), sum(map(_unshared_mb, children))

    def end(self) -> None:
        """Ends it by the end of its input."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def _unshared_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def _cpu_seconds(thread: str) -> float:
    return int(Path(f"/proc/{thread}/schedstat").read_text("ascii").split()[0]) / 1e9


@contextmanager
def _databases(server: Server) -> Iterator[dict[str, str]]:
    """Yields a URL for each kind: a database that only DBOS has migrated, and one that Holdfast has too."""
    password = (server.secrets / "postgres" / "superuser").read_text("ascii").strip()
    urls = {}
    for kind in KINDS:
        server.run(f"CREATE DATABASE {kind}")
        urls[kind] = f"postgresql://postgres:{password}@127.0.0.1:{server.cluster.port}/{kind}"
    prepare_database(urls["attached"])
    for kind in KINDS:  # DBOS migrates in its first launch
        Application(kind, urls[kind]).end()
    yield urls


def measure(samples: Samples, server: Server, pairs: int) -> None:
    """Adds ``pairs`` pairs of rounds to the samples."""
    with _databases(server) as urls:
        for number in range(pairs):
            order = KINDS if number % 2 else KINDS[::-1]
            running = {kind: Application(kind, urls[kind]) for kind in order}
            try:
                for kind in KINDS:
                    samples.start_seconds[kind].append(running[kind].start_seconds)
                    running[kind].steps(_STEPS)
                backends = {kind: _backends(server, kind) for kind in KINDS}
                for chunk in range(_CHUNKS):
                    for kind in KINDS if chunk % 2 else KINDS[::-1]:
                        seconds, cpu_seconds = running[kind].steps(_STEPS, backends[kind])
                        samples.step_seconds[kind].append(seconds)
                        samples.step_cpu_seconds[kind].append(cpu_seconds)
                helpers = {}
                for kind in KINDS:
                    own, helpers[kind] = running[kind].memory_mb()
                    samples.memory_mb[kind].append(own)
                samples.helper_mb.append(helpers["attached"])
                if number < _IDLE_PAIRS:
                    for kind, rate in _idle_rates(server).items():
                        samples.transactions[kind].append(rate)
            finally:
                for application in running.values():
                    application.end()
            print(f"pair {number + 1} of {pairs}", file=sys.stderr, flush=True)


def _backends(server: Server, kind: str) -> list[int]:
    """Returns the processes of PostgreSQL that serve DBOS's own pool in this database."""
    connection = server.admin()
    try:
        cursor = connection.cursor()
        cursor.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = %s"
            " AND (application_name = 'dbos_transact' OR application_name LIKE '%%/dbos')",
            (kind,),
        )
        return [row["pid"] for row in cursor.fetchall()]
    finally:
        connection.close()


def _idle_rates(server: Server) -> dict[str, float]:
    """Returns the transactions per second in both databases while the applications idle."""

    def counted() -> dict[str, tuple[float, int]]:
        connection = server.admin()
        try:
            cursor = connection.cursor()
            cursor.execute(
                "SELECT datname, extract(epoch FROM clock_timestamp())::float AS at,"
                " xact_commit + xact_rollback AS count"
                " FROM pg_stat_database WHERE datname IN ('plain', 'attached')"
            )
            return {row["datname"]: (row["at"], row["count"]) for row in cursor.fetchall()}
        finally:
            connection.close()

    time.sleep(2)  # what the last steps did is counted by then
    before = counted()
    time.sleep(_IDLE_SECONDS)
    after = counted()
    return {kind: (after[kind][1] - before[kind][1]) / (after[kind][0] - before[kind][0]) for kind in KINDS}


def report(samples: Samples) -> str:
    """Returns the table of the results."""
    median = statistics.median

    def ratio(costs: dict[str, list[float]]) -> str:
        ratios = [attached / plain for attached, plain in zip(costs["attached"], costs["plain"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        return f"{(middle - 1) * 100:+.1f} % (quartiles {(low - 1) * 100:+.1f}, {(high - 1) * 100:+.1f})"

    step = {kind: median(samples.step_seconds[kind]) * 1000 for kind in KINDS}
    cpu = {kind: median(samples.step_cpu_seconds[kind]) * 1000 for kind in KINDS}
    start = {kind: median(samples.start_seconds[kind]) for kind in KINDS}
    slower = median(
        a - p for a, p in zip(samples.start_seconds["attached"], samples.start_seconds["plain"], strict=True)
    )
    own = {kind: median(samples.memory_mb[kind]) for kind in KINDS}
    helper = median(samples.helper_mb)
    idle = {kind: median(samples.transactions[kind]) for kind in KINDS}
    more = own["attached"] - own["plain"]
    rows = [
        (
            "a step: CPU time",
            *(f"{cpu[kind]:.2f} ms" for kind in KINDS),
            ratio(samples.step_cpu_seconds),
            "5 %",
        ),
        ("a step: time", *(f"{step[kind]:.2f} ms" for kind in KINDS), ratio(samples.step_seconds), "5 %"),
        ("memory: the process", *(f"{own[kind]:.1f} MB" for kind in KINDS), f"{more:.1f} MB", ""),
        ("memory: the watchdog", "", f"{helper:.1f} MB", f"{helper:.1f} MB", ""),
        ("memory: both", "", "", f"{more + helper:.1f} MB", "12 MB"),
        (
            "idle: transactions per second",
            *(f"{idle[kind]:.1f}" for kind in KINDS),
            f"{idle['attached'] - idle['plain']:.1f}",
            "6",
        ),
        ("start", *(f"{start[kind]:.2f} s" for kind in KINDS), f"{slower:.2f} s", ""),
    ]
    head = "| what | plain | attached | cost | goal |\n|---|--:|--:|--:|--:|\n"
    return head + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    """Measures, prints the table, and writes the report if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    samples = Samples()
    server = Server()
    try:
        measure(samples, server, options.pairs)
    finally:
        server.close()
    table = report(samples)
    print(table)
    if options.write:
        load = [f"{number:.1f}" for number in os.getloadavg()]
        REPORT.write_text(_PAGE.format(table=table, pairs=options.pairs, **_machine(), load=load[1]), "utf-8")


def _machine() -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "dbos": version("dbos"),
        "cpus": len(os.sched_getaffinity(0)),
        "chunks": _CHUNKS,
        "steps": _STEPS,
        "idle": _IDLE_SECONDS,
        "idle_pairs": _IDLE_PAIRS,
    }


_PAGE = """\
# What attaching costs

`python -m bench.attached --write` writes this page. It compares a plain DBOS application
(`bench/attached_app.py`) with the same application under `holdfast run`.

{table}
- DBOS {dbos}, Python {python}, {cpus} CPUs, load average {load} at the end (other work runs on this machine),
  PostgreSQL on the same machine without fsync.
- Medians of {pairs} pairs of rounds. A pair starts one process of each kind, in turn the plain or the
  attached one first, on two databases of one server.
- **A step** returns its argument and does nothing else. {chunks} workflows of {steps} steps run in each
  process of a pair, in turn. A ratio compares two that ran one after the other; the table has the median of
  all ratios. CPU time is that of the thread that runs the workflow, and of DBOS's backends in PostgreSQL:
  other work on the machine changes it less.
- **Memory** is what only this process uses (`Private_*` in `smaps_rollup`), after it ran its steps.
- **Idle transactions** are counted by PostgreSQL for {idle:g} s in {idle_pairs} of the pairs.
- **Start** is the time from the command until `DBOS.launch()` has returned.
"""


if __name__ == "__main__":
    main()
