"""Serializes claims from a queue whose limit all executors share.

DBOS counts the running workflows and claims waiting ones in one transaction. Two overlapping transactions
count the same number and both claim, if they choose different rows. Executors of two versions do. So do two
of one version when a row of a higher priority, or with an earlier time of another client's clock, is stored
between their snapshots. Here a session-level advisory lock, acquired before the snapshot, serializes these
transactions. They also count workflows of the queue that run elsewhere as suspects (`Homes`).

Private to DBOS 3.4.0 and replaced here, with contract tests: ``PostgresSystemDatabase``'s
``start_queued_workflows`` and ``start_queued_partitioned_workflows``. Their transactions begin with
``_begin`` or ``engine.begin``. ``_queue_pending_filter`` selects the workflows that count. ``_claim_gate`` or
``_scoped`` selects the workflows that may be claimed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import SimpleNamespace
from typing import Any, Literal

import sqlalchemy as sa
from dbos._sys_db_postgres import PostgresSystemDatabase

_LOCK_CLASS = 7032
# An executor that is paused within its claim keeps the lock until its peers have declared it dead. A queue's
# thread cannot be stopped while it waits for the lock. DBOS tries again at its next poll.
_LOCK_TIMEOUT = "1s"


_crashes = sa.table("crashes", sa.column("workflow_id"), sa.column("queue_name"), schema="ops")

Room = Literal["room", "full", "behind"]


class _Gated:
    """A system database that claims no workflow that came from one of the given home queues."""

    def __init__(self, db: Any, homes: list[str]) -> None:
        self._db = db
        self._homes = homes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def _claim_gate(self, *args: Any) -> list[sa.ColumnElement[bool]]:
        claimable: list[sa.ColumnElement[bool]] = self._db._claim_gate(*args)
        if not self._homes:
            return claimable
        workflow_id = self._db.tables.workflow_status.c.workflow_uuid
        mine = _crashes.c.workflow_id == workflow_id
        return [*claimable, ~sa.exists().where(mine, _crashes.c.queue_name.in_(self._homes))]


class _LockedClaim(_Gated):
    """A system database whose next transaction first acquires the lock of one queue."""

    def __init__(self, db: Any, queue_name: str, homes: list[str]) -> None:
        super().__init__(db, homes)
        self._queue_name = queue_name
        self.engine = SimpleNamespace(dialect=db.engine.dialect, begin=lambda: self._begin(None))

    def _queue_pending_filter(self, queue_name: str) -> sa.ColumnElement[bool]:
        ws = self._db.tables.workflow_status
        return sa.and_(
            ws.c.status == "PENDING",
            self._name_filter(ws.c.application_name, self.app_name),
            sa.or_(ws.c.queue_name == queue_name, ws.c.workflow_uuid == _from_home(queue_name)),
        )

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
            connection.invalidate()  # the end of the session releases the lock


class _LockedPartitionsClaim(_LockedClaim):
    """As `_LockedClaim`, for one claim from many partitions, each of which runs one workflow at a time."""

    def _name_filter(self, *args: Any) -> sa.ColumnElement[bool]:
        # The only condition of the claimed workflows that does not limit the count of running ones too.
        theirs: sa.ColumnElement[bool] = self._db._name_filter(*args)
        return sa.and_(theirs, *self._db._claim_gate(self._queue_name, None))

    def _scoped(self, table: Any) -> list[sa.ColumnElement[bool]]:
        if table is not self._db.tables.workflow_status:
            return []
        moved = table.alias("moved")
        taken = sa.select(moved.c.queue_partition_key).where(
            moved.c.status == "PENDING",
            moved.c.workflow_uuid == _from_home(self._queue_name),
            moved.c.queue_partition_key.is_not(None),
        )
        return [table.c.queue_partition_key != sa.all_(sa.func.array(taken.scalar_subquery()))]


def _from_home(queue_name: str) -> Any:
    # With an array, not a join or an IN, both parts of the OR can use their index.
    found = sa.select(_crashes.c.workflow_id).where(_crashes.c.queue_name == queue_name)
    return sa.any_(sa.func.array(found.scalar_subquery()))


def room(db: Any, queue: Any, workflow_id: str, partition: str | None) -> Room:
    """Returns whether a claimed suspect may start under its home queue's limits that all executors share.

    Once ``room`` is returned, no claim and no other suspect takes its slot. ``behind``: another suspect,
    which waits or runs, comes first. Of two that wait for each other one has to give way. Raises
    ``DBAPIError``.
    """
    if queue is None or (queue._concurrency is None and queue._partition_concurrency is None):
        return "room"
    ws = db.tables.workflow_status
    locked = _LockedClaim(db, queue.name, [])
    others = sa.select(ws.c.workflow_uuid, ws.c.queue_name, ws.c.queue_partition_key).where(
        locked._queue_pending_filter(queue.name), ws.c.workflow_uuid != workflow_id
    )
    with locked._begin(None) as connection:
        rows = connection.execute(others).all()
    beside = [row for row in rows if row.queue_partition_key == partition]
    for limit, found in ((queue._concurrency, rows), (queue._partition_concurrency, beside)):
        if limit is not None and len(found) >= limit:
            first = any(row.queue_name != queue.name and row.workflow_uuid < workflow_id for row in found)
            return "behind" if first else "full"
    return "room"


def paused_homes(db: Any, queue_name: str) -> list[str]:
    """Returns the home queues whose suspects are currently not claimed from that queue."""
    homes = vars(db).get("homes")
    return homes.paused(queue_name) if homes is not None else []


def are_gated() -> bool:
    """Returns whether the claims of this process leave out the `paused_homes`."""
    return hasattr(PostgresSystemDatabase.start_queued_partitioned_workflows, "without_lock")


def limits_per_process(queue: Any) -> tuple[int | None, int | None]:
    """Returns how many workflows of a queue, and of one of its partitions, one process may run."""
    return queue._worker_concurrency, queue._partition_worker_concurrency


def _shared(queue: Any) -> bool:
    limits = (queue._concurrency, queue._limiter, queue._partition_concurrency, queue._partition_limiter)
    return any(limit is not None for limit in limits)


def install() -> None:
    """Serializes claims under a limit that executors share. Idempotent."""
    kind: Any = PostgresSystemDatabase
    if hasattr(kind.start_queued_partitioned_workflows, "without_lock"):
        return

    def with_lock(original: Callable[..., Any], locked: type[_LockedClaim]) -> Callable[..., Any]:
        @wraps(original)
        def claim(db: Any, queue: Any, *args: Any, **options: Any) -> Any:
            homes = paused_homes(db, queue.name)
            if _shared(queue):
                return original(locked(db, queue.name, homes), queue, *args, **options)
            return original(_Gated(db, homes) if homes else db, queue, *args, **options)

        claim.without_lock = original  # type: ignore[attr-defined]
        return claim

    kind.start_queued_workflows = with_lock(kind.start_queued_workflows, _LockedClaim)
    kind.start_queued_partitioned_workflows = with_lock(
        kind.start_queued_partitioned_workflows, _LockedPartitionsClaim
    )
