"""A purge at many old workflows: by index alone, and without disturbing the queue."""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from holdfast.postgres.statements import sql
from holdfast.retention.purger import BATCH, TIDY
from tests.support.database import Database, Server, wait_until
from tests.support.engines import Launched, launched
from tests.support.purging import BIG, WEEK, fill, probe, purge, sequential_scans, woken

OLD = 100_000
QUEUE = "waiting-room"
ROUNDS, PROBES = 4, 100
RATIO = 3.0
"""Median wait beside a purge, as a multiple of that without one in the same run."""
pytestmark = pytest.mark.timeout(900)  # the fixture fills hundreds of thousands of rows


def tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")


@pytest.fixture(scope="module")
def big(server: Server) -> Iterator[Database]:
    with Database.lent(server) as made:
        begun = time.monotonic()
        fill(made, OLD)
        tell(f"filled in {time.monotonic() - begun:.1f} s")
        yield made


def test_the_polls_read_by_index_and_little(big: Database) -> None:
    cutoffs = big.run("purge_begin", age_seconds=WEEK, parked_age_seconds=None, dry_run=True)[0]
    middle = big.one("SELECT completed_at FROM dbos.workflow_status WHERE workflow_uuid = 'batch-900'")
    looks = {
        "purge_page": {**cutoffs, "after_ms": middle, "after_id": "batch-900"},
        "purge_family": {**cutoffs, "workflow_id": "batch-901"},
        **{name: {"cutoff_ms": cutoffs["cutoff_ms"], "after": None, "dry_run": True} for name in TIDY},
    }
    connection = big.connect()
    for name, params in looks.items():
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql(name)}", {**params, "limit": BATCH})
            plan = cursor.fetchall()[0]["QUERY PLAN"][0]
        read, waiting = 0.0, [plan["Plan"]]
        while waiting:
            node = waiting.pop()
            waiting += node.get("Plans", ())
            assert node["Node Type"] != "Seq Scan" or node["Relation Name"] not in BIG, f"{name}: {node}"
            if node.get("Relation Name") in BIG:
                removed = sum(value for key, value in node.items() if key.startswith("Rows Removed by"))
                read += (node["Actual Rows"] + removed) * node["Actual Loops"]
        tell(f"{name}: {read:.0f} rows, {plan['Execution Time']:.1f} ms")
        assert read <= 6 * BATCH, f"{name} reads {read} rows"


@pytest.fixture
def app(big: Database) -> Iterator[Launched]:
    with launched(big, queues=[QUEUE]) as made, woken(made):
        yield made


def test_a_purge_does_not_disturb_the_queue_and_scans_nothing(app: Launched) -> None:
    """In turns, so that what else this machine does falls on both alike."""
    alone: list[float] = []
    beside: list[float] = []
    deleted = 0
    seconds = 0.0
    probe(app, QUEUE, "warm", PROBES)
    before = sequential_scans(app.database)
    for number in range(ROUNDS):
        alone += probe(app, QUEUE, f"alone-{number}", PROBES)
        stop = threading.Event()
        results = []
        thread = threading.Thread(
            target=lambda: results.append(purge(app.database, stopping=stop.is_set))  # noqa: B023
        )
        count = "SELECT coalesce(sum(value), 0)::bigint FROM ops.totals WHERE name = 'purged'"
        known = app.database.one(count)
        thread.start()
        wait_until(lambda: app.database.one(count) > known, "a batch is gone", seconds=30)  # noqa: B023
        begun = time.monotonic()
        beside += probe(app, QUEUE, f"beside-{number}", PROBES)
        assert thread.is_alive(), "the purge must last as long as what is measured beside it"
        stop.set()
        thread.join(30)
        seconds += time.monotonic() - begun
        deleted += results[0].deleted
    scans = {table: count for table, count in sequential_scans(app.database).items() if count > before[table]}
    median = statistics.median(alone), statistics.median(beside)
    worst = max(alone), max(beside)
    tell(f"enqueued to claimed, median: {median[0]:.4f} s alone, {median[1]:.4f} s beside a purge")
    tell(f"the longest: {worst[0]:.3f} s, {worst[1]:.3f} s; {deleted:,} workflows went in {seconds:.1f} s")
    assert deleted > ROUNDS * BATCH
    assert scans == {}, "a statement of a purge reads a whole table"
    assert median[1] < RATIO * max(median[0], 0.005)
