"""What attaching costs a DBOS application: ``python -m bench.attached [--pairs 9] [--write]``.

Compares `bench.attached_app` as it is with the same under ``holdfast run``, in one run: each pair of rounds
starts both, plain and attached in turn first, on databases of one PostgreSQL without fsync. A ratio compares
rounds of one pair. ``--write`` writes ``docs/reports/attaching.md``.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from bench.attached_report import KINDS, PAGE, Samples, interquartile_mean, table
from holdfast.dbos_adapter.preparing import prepare_database
from tests.support.attached import UNDER_HOLDFAST
from tests.support.database import Server

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "docs" / "reports" / "attaching.md"
_BLOCKS, _STEPS = 40, 20
"""Blocks of a round, which alternate between the two processes, and steps of a block."""
_SETTLE_SECONDS = 40.0
"""Until a quiet queue polls at its longest interval, and PostgreSQL has counted what ran before."""
_IDLE_SECONDS = 20.0
_IDLE_ROUNDS = 3


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

    def steps(self, count: int, backends: Sequence[int] = ()) -> tuple[float, float, float]:
        """Runs a workflow of ``count`` steps.

        Returns the seconds of one step, the CPU seconds of the thread that runs the workflow, and those of
        DBOS's ``backends`` in PostgreSQL.
        """
        assert self._process.stdin is not None
        thread = f"{self._process.pid}/task/{self._process.pid}"
        before = _cpu_seconds(thread), sum(_cpu_seconds(str(pid)) for pid in backends)
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        seconds = float(self._read())
        after = _cpu_seconds(thread), sum(_cpu_seconds(str(pid)) for pid in backends)
        return seconds / count, (after[0] - before[0]) / count, (after[1] - before[1]) / count

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
            with _running(urls, KINDS if number % 2 else KINDS[::-1]) as running:
                for kind in KINDS:
                    samples.start_seconds[kind].append(running[kind].start_seconds)
                _measure_steps(samples, running, server)
                helpers = {}
                for kind in KINDS:
                    own, helpers[kind] = running[kind].memory_mb()
                    samples.memory_mb[kind].append(own)
                samples.helper_mb.append(helpers["attached"])
                if number == pairs - 1:
                    _measure_idle(samples, server)
            print(f"pair {number + 1} of {pairs}", file=sys.stderr, flush=True)


@contextmanager
def _running(urls: dict[str, str], order: Sequence[str]) -> Iterator[dict[str, Application]]:
    """Yields a process of each kind, started in this order."""
    running = {kind: Application(kind, urls[kind]) for kind in order}
    try:
        yield running
    finally:
        for application in running.values():
            application.end()


def _measure_steps(samples: Samples, running: dict[str, Application], server: Server) -> None:
    """Runs blocks of steps in both processes, in turn, and adds the usual cost of a step in each."""
    for kind in KINDS:
        running[kind].steps(3 * _STEPS)
    backends = {kind: _backends(server, kind) for kind in KINDS}
    blocks: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in KINDS}
    for number in range(_BLOCKS):
        for kind in KINDS if number % 2 else KINDS[::-1]:
            blocks[kind].append(running[kind].steps(_STEPS, backends[kind]))
    for kind in KINDS:
        seconds, python, backend = zip(*blocks[kind], strict=True)
        samples.step_seconds[kind].append(interquartile_mean(seconds))
        samples.python_seconds[kind].append(interquartile_mean(python))
        samples.backend_seconds[kind].append(interquartile_mean(backend))


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


def _measure_idle(samples: Samples, server: Server) -> None:
    """Adds the transactions per second in both databases while the applications idle."""
    time.sleep(_SETTLE_SECONDS)
    before = _counted(server)
    for _ in range(_IDLE_ROUNDS):
        time.sleep(_IDLE_SECONDS)
        after = _counted(server)
        for kind in KINDS:
            (began, count), (ended, later) = before[kind], after[kind]
            samples.transactions[kind].append((later - count) / (ended - began))
        before = after


def _counted(server: Server) -> dict[str, tuple[float, int]]:
    """Returns the time and PostgreSQL's count of transactions in each database."""
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
    shown = table(samples)
    print(shown)
    if options.write:
        load = [f"{number:.1f}" for number in os.getloadavg()]
        REPORT.write_text(PAGE.format(table=shown, pairs=options.pairs, **_machine(), load=load[1]), "utf-8")


def _machine() -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "dbos": version("dbos"),
        "cpus": len(os.sched_getaffinity(0)),
        "blocks": _BLOCKS,
        "steps": _STEPS,
        "settle": _SETTLE_SECONDS,
        "idle": _IDLE_SECONDS * _IDLE_ROUNDS,
    }


if __name__ == "__main__":
    main()
