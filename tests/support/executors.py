"""Executors under a test's control: registered and locked like the runtime's, but without threads."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from holdfast.identity import Identity
from holdfast.postgres.database import Connection, Row, connect, query, transaction
from holdfast.recovery.lease import Lease
from holdfast.recovery.sweep import Sweep
from holdfast.settings import Role, Settings
from tests.support import names
from tests.support.database import Database, wait_until

LEASE_SECONDS = 30.0
"""A lease that does not expire during a test."""

_numbers = itertools.count()


class Clock:
    """The sweep's clock, which the test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += seconds


def unfinished(
    connection: Connection, of: Identity, *, only: list[str] | None = None, only_waiting: bool = False
) -> dict[str, Row]:
    """Returns the workflows that a release of an executor's work would find, locked, by id."""
    mine = {"executor_id": of.executor_id, "application": of.application, "version": of.version}
    rows = query(connection, "unfinished_work", only=only, only_waiting=only_waiting, **mine)
    return {row["workflow_id"]: row for row in rows}


def identity(name: str, *, application: str = "holdfast-worker", version: str = "worker-1") -> Identity:
    """Returns an identity like ``Process``'s."""
    role: Role = "api" if application == "holdfast-api" else "worker"
    return Identity(
        executor_id=name,
        application=application,
        version=version,
        role=role,
        hostname="test",
        pid=1,
        port=1,
        slots=2,
        suspects_queue=names.SUSPECTS_QUEUE[role],
        trials_queue=names.TRIALS_QUEUE[role],
        leaf_queues=names.LEAF_QUEUES,
    )


@dataclass
class Peer:
    """One executor: its row, its lease session, and a sweep that the test drives."""

    database: Database
    identity: Identity
    settings: Settings
    clock: Clock = field(default_factory=Clock)
    settled_seconds: float = 1e9
    lease: Connection | None = None
    lock_key: int = 0

    @classmethod
    def start(cls, database: Database, name: str = "", **options: Any) -> Peer:
        """Registers an executor with its lock, as ``Lease.start`` does."""
        clock = options.pop("clock", None) or Clock()
        changed = options.pop("settings", {})
        who = identity(name or f"worker-test-{next(_numbers):08x}", **options)
        # It uses the login of its role.
        settings = database.settings(who.role, lease_seconds=LEASE_SECONDS, **changed)
        peer = cls(database, who, settings, clock)
        peer.lease = peer.connect("lease")
        with transaction(peer.lease):
            registered = query(peer.lease, "register_executor", **peer.identity.registered())
            peer.lock_key = registered[0]["lock_key"]
            assert query(peer.lease, "take_lock", lock_key=peer.lock_key)[0]["held"]
        peer.sweep = Sweep(
            settings,
            peer.identity,
            settled_seconds=lambda: peer.settled_seconds,
            on_takeover=lambda reason, verdicts, seconds: peer.takeovers.append((reason, verdicts, seconds)),
            clock=clock,
        )
        peer.takeovers = []
        # It has observed its peers for a while, as most sweeping executors have.
        peer.sweep._watching_since = clock() - 60
        return peer

    sweep: Sweep = field(init=False)
    takeovers: list[tuple[str, list[Any], float]] = field(init=False)

    @property
    def id(self) -> str:
        return self.identity.executor_id

    def connect(self, what: str) -> Connection:
        """Returns a connection named like the runtime's. It is closed at the test's end."""
        connection = connect(self.settings, purpose=self.identity.purpose(what))
        self.database._open.append(connection)
        return connection

    def round(self, connection: Connection | None = None) -> list[str]:
        """Runs one round of this executor's sweep."""
        connection = connection or self.connect("sweep")
        try:
            return self.sweep.round(connection)
        finally:
            connection.close()

    def poll_twice(self) -> list[str]:
        """Runs two rounds, with the interval that a second check needs. Returns the executors taken over."""
        taken = self.round()
        self.clock.move(self.settings.second_look_seconds + 0.001)
        return taken + self.round()

    def die(self) -> None:
        """Simulates SIGKILL: the kernel closes the socket, and the lock ends with the session."""
        assert self.lease is not None
        self.lease.close()
        wait_until(lambda: not self.locked(), "the dead executor's lock is gone")

    def lose_lock(self) -> None:
        """Terminates its lease session. The process does not know that yet."""
        assert self.lease is not None
        self.database.rows("SELECT pg_terminate_backend(%(pid)s)", pid=self.lease.info.backend_pid)
        wait_until(lambda: not self.locked(), "the lock is gone")

    def retake(self) -> None:
        """Reacquires the lock, as the owner does after the end of its lease session."""
        self.lease = self.connect("lease")
        assert query(self.lease, "take_lock", lock_key=self.lock_key)[0]["held"]

    def locked(self) -> bool:
        rows = self.database.run("poll_executors")
        return any(row["executor_id"] == self.id and row["lock_pid"] is not None for row in rows)

    def silent(self, seconds: float = LEASE_SECONDS + 1) -> None:
        """Sets its last heartbeat to ``seconds`` ago."""
        self.database.rows(
            "UPDATE ops.executors SET heartbeat_at = clock_timestamp() - make_interval(secs => %(age)s)"
            " WHERE executor_id = %(id)s",
            age=seconds,
            id=self.id,
        )

    def beat(self) -> bool:
        """Sends one heartbeat. Returns false if the row says that this executor is dead."""
        return bool(self.database.run("send_heartbeat", executor_id=self.id, in_flight=0, state="live"))

    @property
    def state(self) -> str:
        return str(self.row["state"])

    @property
    def row(self) -> Row:
        (row,) = self.database.rows("SELECT * FROM ops.executors WHERE executor_id = %(id)s", id=self.id)
        return row

    def runs(self, *workflow_ids: str, **columns: Any) -> None:
        """Gives it running workflows."""
        insert(self.database, workflow_ids, status="PENDING", executor_id=self.id, **columns)


def wait_for(database: Database, *workflow_ids: str) -> None:
    """Inserts rows of waiting workflows, as `Waits` writes them."""
    database.rows(
        "INSERT INTO ops.waits (workflow_id, owner_xid, kind)"
        " SELECT workflow_uuid, owner_xid, 'workflow' FROM dbos.workflow_status"
        " WHERE workflow_uuid = ANY (%(ids)s) AND status = 'PENDING'"
        " ON CONFLICT (workflow_id) DO UPDATE SET owner_xid = excluded.owner_xid, releases = 0",
        ids=list(workflow_ids),
    )


def insert(database: Database, workflow_ids: Iterable[str], **columns: Any) -> None:
    """Inserts rows of ``workflow_status`` as DBOS leaves them after a claim, changed by ``columns``."""
    row = {
        "status": "ENQUEUED",
        "name": names.FIBONACCI_NUMBER,
        "queue_name": names.FIBONACCI_QUEUE,
        "application_name": "holdfast-worker",
        "application_version": "worker-1",
        "recovery_attempts": 1,
        **columns,
    }
    if row["status"] == "PENDING":
        row = {"owner_xid": "owner", "started_at_epoch_ms": 1, **row}
    columns_text = ", ".join(row)
    values = ", ".join(f"%({key})s" for key in row)
    database.rows(
        f"INSERT INTO dbos.workflow_status (workflow_uuid, {columns_text})"
        f" SELECT id, {values} FROM unnest(%(ids)s::text[]) AS id",
        ids=list(workflow_ids),
        **row,
    )


def workflow(database: Database, workflow_id: str) -> Row:
    """Returns the row of one workflow."""
    (row,) = database.rows("SELECT * FROM dbos.workflow_status WHERE workflow_uuid = %(id)s", id=workflow_id)
    return row


def record_steps(database: Database, workflow_id: str, count: int) -> None:
    """Records ``count`` more steps."""
    database.rows(
        "INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, function_name, output)"
        " SELECT %(id)s, n + (SELECT count(*) FROM dbos.operation_outputs WHERE workflow_uuid = %(id)s),"
        " 's', '1'"
        " FROM generate_series(1, %(count)s) n",
        id=workflow_id,
        count=count,
    )


def claim(database: Database, executor_id: str, workflow_id: str) -> None:
    """Changes the row as DBOS's dequeue does."""
    database.rows(
        "UPDATE dbos.workflow_status SET status = 'PENDING', executor_id = %(executor)s,"
        " owner_xid = %(executor)s, started_at_epoch_ms = 1, recovery_attempts = recovery_attempts + 1"
        " WHERE workflow_uuid = %(id)s AND status = 'ENQUEUED'",
        executor=executor_id,
        id=workflow_id,
    )


def handovers(database: Database, workflow_id: str | None = None) -> list[Row]:
    """Returns rows of the handover ledger, oldest first."""
    return database.rows(
        "SELECT * FROM ops.handovers WHERE %(id)s::text IS NULL OR workflow_id = %(id)s ORDER BY handover_id",
        id=workflow_id,
    )


def live_lease(
    database: Database,
    name: str,
    *,
    on_fenced: Callable[[], None] = lambda: None,
    on_desired: Callable[[str], None] = lambda _: None,
    in_flight: Callable[[], int] = lambda: 0,
    **options: Any,
) -> tuple[Lease, Settings]:
    """Returns a real ``Lease`` with its thread, not yet started, with short intervals."""
    settings = database.settings(**{"heartbeat_seconds": 0.2, "lease_seconds": 1.0, **options})
    lease = Lease(settings, identity(name), on_fenced=on_fenced, on_desired=on_desired, in_flight=in_flight)
    return lease, settings
