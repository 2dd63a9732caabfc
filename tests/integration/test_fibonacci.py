"""Fibonacci numbers on a process that stops."""

from __future__ import annotations

from typing import Any, NoReturn

from holdfast.durable import names
from holdfast.durable.resources import Resources, provide
from holdfast.errors import CpuPoolClosed
from holdfast.postgres.database import OpsPool
from services.worker.fibonacci import workflows as fibonacci
from tests.support.database import Database, wait_until
from tests.support.engines import launched
from tests.support.executors import workflow


class ClosedPool:
    """Of a process at its end: what is submitted, and what runs, gets this."""

    asked = 0

    def run_sync(self, *_: Any, **__: Any) -> NoReturn:
        self.asked += 1
        raise CpuPoolClosed


def test_a_closed_pool_is_no_result(database: Database) -> None:
    """PostgreSQL was away for the hand over, or a claim came after it: the number is a peer's soon."""
    settings, pool = database.settings(), ClosedPool()
    assert fibonacci.number is not None
    with launched(database, queues=[names.FIBONACCI_QUEUE]) as app:
        ops = OpsPool(settings, purpose="test/steps")
        means: Any = Resources(settings, app.identity.executor_id, ops, app.waker, pool=pool)  # type: ignore[arg-type]
        provide(means)
        try:
            app.queue(names.FIBONACCI_QUEUE)
            app.enqueue(names.FIBONACCI_NUMBER, 10, "recursive", queue=names.FIBONACCI_QUEUE, workflow_id="n")
            wait_until(lambda: pool.asked == 1, "it is computed")
            wait_until(lambda: app.engine.active() == [], "its execution ends")
        finally:
            provide(None)
            ops.close()
        assert workflow(database, "n")["status"] == "PENDING"
        assert database.rows("SELECT * FROM dbos.operation_outputs") == []
