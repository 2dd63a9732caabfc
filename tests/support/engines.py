"""A launched DBOS application in the test's own process, which restores at the end what it changed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dbos._core
import dbos._datasource
import dbos._queue
import dbos._scheduler
import dbos._sys_db
import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSPortableJSONSerializer

from holdfast.dbos_adapter.schema import sqlalchemy_url
from holdfast.dbos_adapter.wake_ups import Waker
from holdfast.identity import Identity
from holdfast.process.engine import Engine
from holdfast.process.process import Process
from holdfast.settings import Role
from services.composition import Worker
from tests.support.database import Database, wait_until
from tests.support.executors import Peer, workflow


class Gates(dict[str, threading.Event]):
    """By workflow id: where its code stands until the test lets it go on.

    Who comes when the test has ended goes on at once. It would otherwise end after its database has gone, and
    try for ever to store that.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._open = False

    def __missing__(self, workflow_id: str) -> threading.Event:
        with self._lock:
            gate = self.setdefault(workflow_id, threading.Event())
            if self._open:
                gate.set()
            return gate

    def clear(self) -> None:
        self._open = False
        super().clear()

    def open_all(self) -> None:
        """Lets everyone go on, and who comes later."""
        with self._lock:
            self._open = True
            for gate in self.values():
                gate.set()


@dataclass
class Launched:
    """A running engine, registered as an executor."""

    database: Database
    engine: Engine
    waker: Waker
    peer: Peer
    client: DBOSClient

    @property
    def dbos(self) -> Any:
        """The DBOS instance with its private members."""
        return self.engine._dbos

    @property
    def identity(self) -> Identity:
        return self.peer.identity

    def queue(self, name: str, worker_concurrency: int | None = 4, polling: float = 1.0) -> None:
        """Registers a queue and returns when its thread waits for a wake-up."""
        DBOS.register_queue(
            name,
            worker_concurrency=worker_concurrency,
            polling_interval_sec=polling,
            on_conflict="always_update",
        )
        wait_until(lambda: name in self.waker._wake_events, f"the thread of queue {name} runs")

    @contextmanager
    def statements(self, counts: Callable[[], bool]) -> Iterator[list[str]]:
        """What is sent meanwhile by SQLAlchemy or by our sessions, where ``counts`` says so."""
        seen: list[str] = []

        def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if counts():
                seen.append(statement)

        engine, sessions = self.dbos._sys_db.engine, self.dbos._sys_db.sessions
        run = sessions.run
        sessions.run = lambda name, **params: (note(None, None, name), run(name, **params))[1]
        sa.event.listen(engine, "before_cursor_execute", note)
        try:
            yield seen
        finally:
            sa.event.remove(engine, "before_cursor_execute", note)
            sessions.run = run

    def enqueue(self, workflow_name: str, *args: Any, queue: str, workflow_id: str) -> None:
        """Enqueues a workflow like the API: from outside, by name."""
        self.client.enqueue(
            {
                "queue_name": queue,
                "workflow_name": workflow_name,
                "workflow_id": workflow_id,
                "app_version": self.identity.version,
            },
            *args,
        )

    def status(self, workflow_id: str) -> str:
        return str(workflow(self.database, workflow_id)["status"])

    def wait(self, workflow_id: str, status: str = "SUCCESS", seconds: float = 10) -> None:
        wait_until(
            lambda: self.status(workflow_id) == status, f"{workflow_id} becomes {status}", seconds=seconds
        )


def client(database: Database, application: str = "holdfast-worker", role: Role = "worker") -> DBOSClient:
    """Returns a client like ``Gateway``'s, with the rights of a role."""
    return DBOSClient(
        system_database_url=sqlalchemy_url(database.settings(role).database_url),
        application_name=application,
        serializer=DBOSPortableJSONSerializer(),
        lazy=True,
        retry_connection_errors=False,
    )


def _watch_parked(engine: Engine) -> list[threading.Event]:
    """Returns the events of executions that wait for an outcome that another execution records."""
    sys_db: Any = engine._dbos._sys_db
    original = sys_db.await_workflow_result
    waiting: list[threading.Event] = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        done = threading.Event()
        waiting.append(done)
        try:
            return original(*args, **kwargs)
        finally:
            done.set()

    sys_db.await_workflow_result = watched
    return waiting


@contextmanager
def launched(
    database: Database,
    name: str = "worker-engine",
    *,
    queues: Iterable[str] = (),
    prepare: Callable[[], None] = lambda: None,
    role: Role = "worker",
) -> Iterator[Launched]:
    """Registers an executor and launches DBOS under its id. Destroys it afterwards.

    ``prepare`` runs after DBOS's creation and before its launch. DBOS needs up to a second to find a queue
    that is registered later, so ``queues`` are registered before. DBOS logs in as ``role``.
    """
    with _put_back():
        yield from _launched(database, name, queues, prepare, role)


def _launched(
    database: Database, name: str, queues: Iterable[str], prepare: Callable[[], None], role: Role
) -> Iterator[Launched]:
    peer = Peer.start(database, name)
    waker = Waker()
    engine = Engine(database.settings(role), peer.identity, waker)
    outside = client(database)
    parked: list[threading.Event] = []
    try:
        prepare()
        for queue in queues:
            outside.register_queue(queue, worker_concurrency=4)
        engine.launch()
        parked = _watch_parked(engine)
        yield Launched(database, engine, waker, peer, outside)
    finally:
        engine.stop_dequeuing()
        # An execution that lost its workflow would poll for the outcome for ever, beyond the end of this
        # test.
        database.rows(
            "UPDATE dbos.workflow_status SET status = 'CANCELLED'"
            " WHERE status IN ('PENDING', 'ENQUEUED', 'DELAYED')"
        )
        # A test may run without a listener for notices.
        waker.cancellations.lost((one.workflow_id, one.owner_xid) for one in waker.cancellations.watched())
        wait_until(lambda: all(event.is_set() for event in parked), "parked executions end")
        engine.destroy(5)
        outside.destroy()


@contextmanager
def _put_back() -> Iterator[None]:
    """Undoes the runtime's patches of DBOS at the end of the context."""
    patched = (
        # The patches of blocking_calls stay: without attached waits they behave like DBOS.
        (dbos._queue, "queue_worker_thread"),
        (dbos._queue, "execute_dequeued_workflow"),
        (dbos._core, "_execute_workflow_wthread"),
        (dbos._core, "_execute_workflow_async"),
        (dbos._scheduler, "_enqueue_scheduled_workflow"),
        (dbos._scheduler, "datetime"),
        (dbos._sys_db, "time"),
        (dbos._sys_db, "retriable_postgres_exception"),
        (dbos._datasource, "_is_retriable_db_error"),
    )
    before = [getattr(module, attribute) for module, attribute in patched]
    try:
        yield
    finally:
        for (module, attribute), value in zip(patched, before, strict=True):
            setattr(module, attribute, value)


@contextmanager
def worker_process(database: Database, **options: Any) -> Iterator[Process]:
    """Runs a whole worker in the test's own process, without CPU children, and ends it."""
    with _put_back():
        process = Process(database.settings(**options), Worker(uses_cpu_pool=False), port=1)
        try:
            process._start()
            yield process
        finally:
            asyncio.run(process.drain())
            process._end()
