"""Fibonacci numbers on a process that stops, and a batch that is forked while its numbers run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NoReturn

from dbos import SetWorkflowID

from holdfast.durable.resources import Resources, provide
from holdfast.errors import CpuPoolClosed
from holdfast.postgres.database import OpsPool
from services.worker.fibonacci import workflows as fibonacci
from tests.support import names
from tests.support.database import Database, wait_until
from tests.support.engines import Launched, launched
from tests.support.executors import workflow


class ClosedPool:
    """Of a process at its end: what is submitted, and what runs, gets this."""

    asked = 0

    def run_sync(self, *_: Any, **__: Any) -> NoReturn:
        self.asked += 1
        raise CpuPoolClosed


class SlowPool:
    """Computes nothing until it may, and then at once."""

    def __init__(self) -> None:
        self.may = threading.Event()

    def run_sync(self, _: Any, n: int, *__: Any, **___: Any) -> Any:
        assert self.may.wait(20)
        value = {"n": n, "method": "recursive", "result": "1", "digits": 1, "sha256": "0", "short": "1"}
        return SimpleNamespace(value=value, pid=1, seconds=0.0)


@contextmanager
def worker(database: Database, pool: Any) -> Iterator[Launched]:
    """A worker with its queues of batches and numbers, whose numbers that pool computes."""
    settings = database.settings()
    assert fibonacci.number is not None
    queues = [names.FIBONACCI_BATCH_QUEUE, names.FIBONACCI_QUEUE]
    with launched(database, queues=queues) as app:
        ops = OpsPool(settings, purpose="test/steps")
        ledger: Any = SimpleNamespace(record=lambda *_, **__: "")
        provide(Resources(settings, app.identity.executor_id, ops, app.waker, pool, ledger))
        try:
            for queue in queues:
                app.queue(queue)
            yield app
        finally:
            provide(None)
            ops.close()


def test_a_batch_that_is_forked_while_its_numbers_run_waits_for_them(database: Database) -> None:
    """Its numbers were enqueued before the fork: they are the original's."""
    pool, done = SlowPool(), ("SUCCESS", "ERROR")
    with worker(database, pool) as app:
        app.enqueue(
            names.FIBONACCI_BATCH, [5, 6], "recursive", queue=names.FIBONACCI_BATCH_QUEUE, workflow_id="b"
        )
        wait_until(lambda: {"b-0", "b-1"} <= set(app.engine.active()), "its numbers run")
        with SetWorkflowID("fork"):
            app.client.fork_workflow("b", 2, queue_name=names.FIBONACCI_BATCH_QUEUE)
        wait_until(lambda: "fork" in app.engine.waits.waiting() or app.status("fork") in done, "it waits")
        pool.may.set()
        wait_until(lambda: {app.status(batch) for batch in ("b", "fork")} <= set(done), "both end")
        assert (app.status("b"), app.status("fork")) == ("SUCCESS", "SUCCESS")


def test_a_closed_pool_is_no_result(database: Database) -> None:
    """PostgreSQL was away for the hand over, or a claim came after it: the number is a peer's soon."""
    pool = ClosedPool()
    with worker(database, pool) as app:
        app.enqueue(names.FIBONACCI_NUMBER, 10, "recursive", queue=names.FIBONACCI_QUEUE, workflow_id="n")
        wait_until(lambda: pool.asked == 1, "it is computed")
        wait_until(lambda: app.engine.active() == [], "its execution ends")
        assert workflow(database, "n")["status"] == "PENDING"
        assert database.rows("SELECT * FROM dbos.operation_outputs") == []
