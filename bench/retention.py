"""What a purge of many old workflows costs the queue: waits from enqueued to claimed, alone and beside it.

``python -m bench.retention --rows 1000000`` fills a database, purges it to the end and writes
``bench/results/retention.md``. The purge runs in the process that claims, as it does in a worker.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from pathlib import Path

from holdfast.retention.purger import BATCH
from tests.support.database import Database, Server
from tests.support.engines import launched
from tests.support.purging import BIG, Purged, fill, probe, purge, sequential_scans, woken

RESULTS = Path(__file__).parent / "results" / "retention.md"
QUEUE = "bench"
ALONE = 300


def format_waits(waits: list[float]) -> str:
    """Cells of the result's table."""
    ordered = sorted(waits)
    figures = [statistics.median(ordered), ordered[int(len(ordered) * 0.95)], ordered[-1]]
    return " | ".join(f"{1000 * value:.0f} ms" for value in figures) + f" | {len(ordered)}"


def sizes(database: Database) -> float:
    """Megabytes of the big tables with their indexes."""
    return float(
        database.one(
            "SELECT sum(pg_total_relation_size(relid)) / 1e6 FROM pg_stat_user_tables"
            " WHERE relname = ANY (%(tables)s)",
            tables=list(BIG),
        )
    )


def run(rows: int) -> str:
    """The result as Markdown."""
    server = Server(durable=True)
    try:
        database = Database.create(server)
        fill(database, rows)
        before = sizes(database)
        with launched(database, queues=[QUEUE]) as app, woken(app):
            probe(app, QUEUE, "warm", 20)
            scans = sequential_scans(database)
            alone = probe(app, QUEUE, "before", ALONE)
            results: list[Purged] = []
            thread = threading.Thread(target=lambda: results.append(purge(database)))
            begun = time.monotonic()
            thread.start()
            beside: list[float] = []
            while thread.is_alive():
                beside += probe(app, QUEUE, f"beside-{len(beside)}", 10)
            seconds = time.monotonic() - begun
            after = probe(app, QUEUE, "after", ALONE)
            scans = {name: count - scans[name] for name, count in sequential_scans(database).items()}
        (purged,) = results
        left = database.one(
            "SELECT count(*) FROM dbos.workflow_status WHERE workflow_uuid ~ '^(batch|tick)-'"
        )
        size = sizes(database)
        database.rows("VACUUM")
        vacuumed = sizes(database)
        database.drop()
    finally:
        server.close()
    rate, gone = purged.deleted / seconds, purged.rows
    return f"""# A purge of {rows:,} old workflows

{purged.deleted:,} workflows (batches of 49 numbers, and ticks), each with input, output, two steps and
an effect, {gone["purge_pulses"]:,} pulses, {gone["purge_keys"]:,} keys, {gone["purge_executors"]} executors
went in {seconds:.0f} s: {rate:,.0f} workflows per second, at most {BATCH} per transaction; {left} are left.
Sequential scans meanwhile: {", ".join(f"{name} {n}" for name, n in scans.items() if n) or "none"}.

| enqueued to claimed | median | 95 % | longest | samples |
|---|---:|---:|---:|---:|
| before | {format_waits(alone)} |
| beside the purge | {format_waits(beside)} |
| after | {format_waits(after)} |

Tables with indexes: {before:,.0f} MB before, {size:,.0f} MB after, {vacuumed:,.0f} MB after a VACUUM; what
is free in them is for new rows. PostgreSQL as Holdfast configures it (fsync on), two cores,
other load beside it. `python -m bench.retention --rows {rows}`
"""


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    text = run(given.rows)
    given.results.write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
