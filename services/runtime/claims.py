"""Claims from a queue whose limit all executors share: one transaction after the other, in all of them.

DBOS counts what runs and claims what waits in one transaction. Two of them that overlap count the same
number and both claim, if they choose different rows. Executors of two versions do. So do two of one version
when a row of a higher priority, or with an earlier time of another client's clock, is stored between their
snapshots. Here these transactions take turns by a session-level advisory lock, which is held before the
snapshot is taken.

Private to DBOS 3.4.0 and replaced here, with contract tests: ``PostgresSystemDatabase``'s
``start_queued_workflows`` and ``start_queued_partitioned_workflows``. Their transactions begin by ``_begin``
or by ``engine.begin``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa
from dbos._sys_db_postgres import PostgresSystemDatabase

_LOCK_CLASS = 7032
# An executor that is paused within its claim keeps the lock until its peers have declared it dead. A queue's
# thread that waited for it could not be stopped. DBOS tries again at its next poll.
_LOCK_TIMEOUT = "1s"


class _Turn:
    """A system database whose next transaction waits for its turn at one queue."""

    def __init__(self, db: Any, queue_name: str) -> None:
        self._db = db
        self._queue_name = queue_name
        self.engine = SimpleNamespace(dialect=db.engine.dialect, begin=lambda: self._begin(None))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    @contextmanager
    def _begin(self, isolation: str | None) -> Iterator[sa.Connection]:
        lock = {"class": _LOCK_CLASS, "name": self._queue_name}
        with self._db.engine.connect() as connection:
            with connection.begin():
                connection.execute(sa.text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'"))
                connection.execute(sa.text("SELECT pg_advisory_lock(:class, hashtext(:name))"), lock)
            try:
                if isolation is not None:
                    connection.execution_options(isolation_level=isolation)
                with connection.begin():
                    yield connection
            finally:
                self._unlock(connection, lock)

    def _unlock(self, connection: sa.Connection, lock: dict[str, Any]) -> None:
        try:
            with connection.begin():
                connection.execute(sa.text("SELECT pg_advisory_unlock(:class, hashtext(:name))"), lock)
        except sa.exc.DBAPIError:
            connection.invalidate()  # the lock ends with its session


def _shared(queue: Any) -> bool:
    limits = (queue._concurrency, queue._limiter, queue._partition_concurrency, queue._partition_limiter)
    return any(limit is not None for limit in limits)


def install() -> None:
    """Has claims under a limit that executors share take turns. Idempotent."""
    kind: Any = PostgresSystemDatabase
    if hasattr(kind.start_queued_partitioned_workflows, "without_turns"):
        return

    def in_turn(original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def claim(db: Any, queue: Any, *args: Any, **options: Any) -> Any:
            return original(_Turn(db, queue.name) if _shared(queue) else db, queue, *args, **options)

        claim.without_turns = original  # type: ignore[attr-defined]
        return claim

    for name in ("start_queued_workflows", "start_queued_partitioned_workflows"):
        setattr(kind, name, in_turn(getattr(kind, name)))
