"""Which of two definitions of a queue or schedule applies, while old and new code run side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from holdfast.dbos_adapter.definitions import Definitions, apply_newest
from holdfast.postgres.database import OpsPool
from tests.support.database import Database
from tests.support.executors import Peer

APPLICATION = "holdfast-worker"


def limited(limit: int) -> Definitions:
    return {"queue": {"mails": {"worker_concurrency": limit}}, "schedule": {}}


class Code:
    """A process of one release: what it declares, and DBOS's row as it writes it."""

    def __init__(self, database: Database, ops: OpsPool, limit: int, name: str) -> None:
        self.database, self.ops, self.own = database, ops, limited(limit)
        self.limit = limit
        self.peer = Peer.start(database, name)

    def start(self) -> None:
        self.settle(starting=True)
        self.publish()

    def settle(self, *, starting: bool = False) -> None:
        apply_newest(self.ops, APPLICATION, self.own, self._apply, starting=starting)

    def publish(self) -> None:
        self.ops.run(
            "publish_registrations",
            executor_id=self.peer.id,
            serializer="portable_json",
            workflows="{}",
            queues=["mails"],
            schedules=[],
            definitions=json.dumps(self.own),
        )

    def stop(self) -> None:
        self.database.rows(
            "UPDATE ops.executors SET state = 'drained' WHERE executor_id = %(id)s", id=self.peer.id
        )

    def _apply(self, kind: str, name: str) -> None:
        assert (kind, name) == ("queue", "mails")
        self.database.rows("DELETE FROM dbos.queues WHERE name = 'mails'")
        self.database.rows(
            "INSERT INTO dbos.queues (queue_id, name, worker_concurrency) VALUES ('m', 'mails', %(limit)s)",
            limit=self.limit,
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
    old.stop()
    again = Code(database, ops, 4, "old-again")
    again.start()
    again.settle()
    assert limit(database) == 8, "newer live code declares it"
    new.stop()
    again.settle()
    assert limit(database) == 4, "a rollback"
    newer_again = Code(database, ops, 8, "new-again")
    newer_again.start()
    assert limit(database) == 8


def test_what_an_operator_changed_stays_until_code_declares_another(database: Database, ops: OpsPool) -> None:
    Code(database, ops, 4, "first").start()
    database.rows("UPDATE dbos.queues SET worker_concurrency = 1 WHERE name = 'mails'")
    restarted = Code(database, ops, 4, "restarted")
    restarted.start()
    restarted.settle()
    assert limit(database) == 1
    Code(database, ops, 5, "changed").start()
    assert limit(database) == 5
    database.rows("DELETE FROM dbos.queues WHERE name = 'mails'")
    Code(database, ops, 5, "restored").start()
    assert limit(database) == 5, "a start restores what is missing"


def test_processes_that_start_at_the_same_moment_agree(database: Database, ops: OpsPool) -> None:
    """Whatever the order of their statements was: the row is of the definition that is marked."""
    codes = [Code(database, ops, each % 4 + 1, f"code-{each}") for each in range(16)]
    with ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(each.start) for each in codes]:
            done.result()
        for done in [pool.submit(each.settle) for each in codes]:
            done.result()
    (newest,) = database.rows(
        "SELECT definition, applies FROM ops.definitions ORDER BY first_declared_at DESC LIMIT 1"
    )
    assert newest["applies"]
    assert newest["definition"] == {"worker_concurrency": limit(database)}
