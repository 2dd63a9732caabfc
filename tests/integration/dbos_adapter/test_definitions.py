"""Which of two definitions of a queue or schedule applies, while old and new code run side by side."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from holdfast.dbos_adapter.definitions import DefinitionLedger, Definitions
from holdfast.postgres.database import OpsPool
from tests.support.database import Database
from tests.support.executors import Peer

APPLICATION = "holdfast-worker"


def limited(limit: int) -> Definitions:
    return {"queue": {"mails": {"worker_concurrency": limit}}, "schedule": {}}


class Code:
    """A process of one release: what it declares, and DBOS's row as it writes it."""

    def __init__(self, database: Database, ops: OpsPool, limit: int, name: str) -> None:
        self.database, self.limit = database, limit
        self.peer = Peer.start(database, name)
        self.ledger = DefinitionLedger(ops, self.peer.id, APPLICATION, limited(limit), self._apply)

    def start(self) -> None:
        self.ledger.declare()
        self.ledger.start("queue")

    def stop(self) -> None:
        self.database.rows(
            "UPDATE ops.executors SET state = 'drained' WHERE executor_id = %(id)s", id=self.peer.id
        )

    def _apply(self, kind: str, name: str) -> None:
        assert (kind, name) == ("queue", "mails")
        write(self.database, self.limit)


def write(database: Database, limit: int) -> None:
    """Writes DBOS's row as `DBOS.register_queue` does."""
    database.rows(
        "INSERT INTO dbos.queues (queue_id, name, worker_concurrency) VALUES ('m', 'mails', %(limit)s)"
        " ON CONFLICT (name) DO UPDATE SET worker_concurrency = excluded.worker_concurrency",
        limit=limit,
    )


@pytest.fixture
def ops(database: Database) -> Iterator[OpsPool]:
    pool = OpsPool(database.settings(), purpose="test", size=16, wait_seconds=20)
    yield pool
    pool.close()


def limit(database: Database) -> int:
    return int(database.one("SELECT worker_concurrency FROM dbos.queues WHERE name = 'mails'"))


def test_old_code_that_starts_again_changes_nothing_that_newer_live_code_declares(
    database: Database, ops: OpsPool
) -> None:
    old = Code(database, ops, 4, "old")
    old.start()
    new = Code(database, ops, 8, "new")
    new.start()
    assert limit(database) == 8
    old.ledger.settle()
    old.stop()
    again = Code(database, ops, 4, "old-again")
    again.start()
    again.ledger.settle()
    assert limit(database) == 8, "newer live code declares it"
    new.stop()
    again.ledger.settle()
    assert limit(database) == 4, "a rollback"
    Code(database, ops, 8, "new-again").start()
    assert limit(database) == 8


def test_a_definition_is_declared_before_it_applies(database: Database, ops: OpsPool) -> None:
    """Otherwise old code would write its own one back, as nothing newer seems to live."""
    old, new = Code(database, ops, 4, "old"), Code(database, ops, 8, "new")
    old.start()
    new.ledger.declare()
    old.ledger.settle()
    new.ledger.start("queue")
    old.ledger.settle()
    assert limit(database) == 8


def test_newer_code_waits_for_old_code_that_is_writing(database: Database, ops: OpsPool) -> None:
    """Otherwise the old definition would be in the row, and the newer one marked as the one that applies."""
    Code(database, ops, 4, "first").start()
    old, new = Code(database, ops, 4, "old"), Code(database, ops, 8, "new")
    writes, may_write = threading.Event(), threading.Event()

    def slowly(*_: str) -> None:
        writes.set()
        assert may_write.wait(20)
        write(database, 4)

    old.ledger = DefinitionLedger(ops, old.peer.id, APPLICATION, limited(4), slowly)
    with ThreadPoolExecutor(2) as pool:
        started = [pool.submit(old.start)]
        assert writes.wait(20)
        started.append(pool.submit(new.start))
        wait(started[1:], timeout=2)  # in vain
        may_write.set()
        for done in started:
            done.result(20)
    assert limit(database) == 8


def test_a_start_writes_its_definition_whatever_the_row_is(database: Database, ops: OpsPool) -> None:
    """An older release keeps no record, and writes its own limits at each start."""
    Code(database, ops, 4, "first").start()
    write(database, 1)
    Code(database, ops, 4, "second").start()
    assert limit(database) == 4
    database.rows("DELETE FROM dbos.queues WHERE name = 'mails'")
    third = Code(database, ops, 4, "third")
    third.start()
    assert limit(database) == 4
    write(database, 1)
    third.ledger.settle()
    assert limit(database) == 1, "what somebody changes stays until the next start"


def test_processes_that_start_at_the_same_moment_agree(database: Database, ops: OpsPool) -> None:
    """Whatever the order of their statements was: the row is of the definition that is marked."""
    codes = [Code(database, ops, each % 4 + 1, f"code-{each}") for each in range(16)]
    with ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(each.start) for each in codes]:
            done.result()
        for done in [pool.submit(each.ledger.settle) for each in codes]:
            done.result()
    (newest,) = database.rows(
        "SELECT definition, applies FROM ops.definitions ORDER BY first_declared_at DESC LIMIT 1"
    )
    assert newest["applies"]
    assert newest["definition"] == {"worker_concurrency": limit(database)}
