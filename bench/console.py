"""What an open console costs: queries and bytes per second for one page and for 50, beside many stored rows.

``python -m bench.console --rows 1000000`` writes ``bench/results/console.md``. The API's HTTP layer, gateway
and reader are the real ones over a real PostgreSQL; a thread starts and ends 20 workflows per second.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from tests.support import names
from tests.support.api_server import Api, serving
from tests.support.database import Database, Server
from tests.support.executors import Peer, insert

RESULTS = Path(__file__).parent / "results" / "console.md"
WORKFLOWS_A_SECOND = 20
SECONDS = 10.0
PAGES = (1, 50)


def fill(database: Database, rows: int) -> None:
    """Stores finished workflows, ten per second up to now."""
    database.rows(
        "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, queue_name, application_name,"
        " application_version, executor_id, recovery_attempts, created_at, updated_at, started_at_epoch_ms,"
        " completed_at) SELECT 'old-' || n, 'SUCCESS', %(name)s, 'fibonacci', 'holdfast-worker', 'worker-1',"
        " 'worker-a', 1, t, t, t, t + 90 FROM generate_series(1, %(rows)s) n,"
        " LATERAL (SELECT %(now)s - n * 100 AS t) AS times",
        name=names.FIBONACCI_NUMBER,
        rows=rows,
        now=int(time.time() * 1000),
    )
    database.rows("ANALYZE dbos.workflow_status")


def work(database: Database, stop: threading.Event) -> None:
    """Starts and ends workflows until it is stopped."""
    number = 0
    while not stop.wait(1 / WORKFLOWS_A_SECOND):
        number += 1
        now = int(time.time() * 1000)
        insert(database, [f"n-{number}"], status="PENDING", executor_id="worker-a", started_at_epoch_ms=now)
        database.rows(
            "UPDATE dbos.workflow_status SET status = 'SUCCESS', completed_at = %(now)s"
            " WHERE workflow_uuid = %(id)s",
            now=now,
            id=f"n-{number - 10}",
        )


class Page:
    """Counts what one open page receives."""

    def __init__(self, api: Api) -> None:
        self.received = 0
        self.ready = threading.Event()
        self._client = httpx.Client(base_url=api.http.base_url, timeout=30, trust_env=False)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            with self._client.stream("GET", "/console/events") as response:
                for chunk in response.iter_raw():
                    self.received += len(chunk)
                    if b"event: change" in chunk:
                        self.ready.set()
        except (httpx.HTTPError, RuntimeError):
            return

    def __enter__(self) -> Page:
        self.ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()


def measure(api: Api, pages: int) -> dict[str, Any]:
    """Queries, their time in the gateway, and bytes, per second."""
    gateway: Any = api.process.gateway
    asked: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    run = gateway.pool.run

    def counted(name: str, **params: Any) -> Any:
        begun = time.perf_counter()
        try:
            return run(name, **params)
        finally:
            asked[name] += 1
            spent[name] += time.perf_counter() - begun

    gateway.pool.run = counted
    try:
        with ExitStack() as stack:
            opened = [stack.enter_context(Page(api)) for _ in range(pages)]
            time.sleep(1)
            asked.clear()
            spent.clear()
            before, begun = sum(page.received for page in opened), time.monotonic()
            time.sleep(SECONDS)
            seconds = time.monotonic() - begun
            received = sum(page.received for page in opened) - before
    finally:
        gateway.pool.run = run
    return {
        "pages": pages,
        "queries": sum(asked.values()) / seconds,
        "busy": sum(spent.values()) / seconds,
        "bytes": received / seconds / pages,
        "slowest": {name: 1000 * spent[name] / asked[name] for name in asked},
    }


def report(rows: int, first: float, size: int, results: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "# What an open console costs",
        "",
        f"`python -m bench.console --rows {rows}`: {rows:,} finished workflows stored, ten per second up to "
        f"now; {WORKFLOWS_A_SECOND} start and end each second; {SECONDS:g} s for each line. PostgreSQL, the "
        "API and the pages share one machine.",
        "",
        f"The first snapshot after a start took {first:.2f} s and has {size / 1000:,.0f} kB.",
        "",
        "| open pages | queries per second | time in queries, ms per second | bytes per second per page |",
        "|--:|--:|--:|--:|",
    ]
    for found in results:
        figures = f"{found['queries']:.1f} | {1000 * found['busy']:.0f} | {found['bytes']:,.0f}"
        lines.append(f"| {found['pages']} | {figures} |")
    lines += [
        "",
        "Mean time of each statement, with its way there and back:",
        "",
        "| statement | ms |",
        "|---|--:|",
    ]
    for name, milliseconds in sorted(results[0]["slowest"].items()):
        lines.append(f"| `{name}` | {milliseconds:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Fill, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    server = Server()
    stop = threading.Event()
    try:
        database = Database.create(server)
        fill(database, rows)
        Peer.start(database, "worker-a")
        thread = threading.Thread(target=work, args=(database, stop), daemon=True)
        with serving(database.settings("api")) as api:
            begun = time.monotonic()
            size = len(api.http.get("/console/snapshot").content)
            first = time.monotonic() - begun
            thread.start()
            results = [measure(api, pages) for pages in PAGES]
            stop.set()
            thread.join(5)
    finally:
        stop.set()
        server.close()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(report(rows, first, size, results), "utf-8")
    print(RESULTS.read_text("utf-8"))


if __name__ == "__main__":
    main()
