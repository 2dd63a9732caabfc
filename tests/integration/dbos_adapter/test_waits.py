"""What a workflow waits for: told while it is all that it does, withdrawn before anything else of it runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from dbos import DBOS, AsyncSQLAlchemyDatasource, SetWorkflowTimeout, SQLAlchemyDatasource

from holdfast.dbos_adapter.schema import sqlalchemy_url
from holdfast.dbos_adapter.serializer import json_serializer
from holdfast.dbos_adapter.waiting.waits import Waits
from holdfast.dbos_adapter.wake_ups import Listener
from holdfast.postgres.database import Row, transaction
from holdfast.recovery.takeover import release, release_claim
from tests.support import names
from tests.support.database import Database, wait_until
from tests.support.engines import Gates, Launched, launched
from tests.support.executors import handovers, insert, unfinished, workflow

_QUEUE, _CHILDREN = "waits-test", "waits-test-children"
_gates = Gates()
_seen: dict[str, list[Any]] = {}
_database: list[Database] = []
_source: list[Any] = []


def _note(what: Any) -> None:
    _seen.setdefault(str(DBOS.workflow_id), []).append(what)


@DBOS.step(name="waits.after")
def _after() -> str:
    """What comes after a wait: notes whether the wait is still told."""
    _note(("step", told(_database[0], str(DBOS.workflow_id)) is not None))
    return "done"


@DBOS.step(name="waits.after_async")
async def _after_async() -> str:
    _note(("step", told(_database[0], str(DBOS.workflow_id)) is not None))
    return "done"


@DBOS.step(name="waits.hold")
def _hold() -> str:
    _note("held")
    assert _gates[str(DBOS.workflow_id)].wait(20)
    return "held"


@DBOS.workflow(name="waits.child", max_recovery_attempts=None)
def _child() -> str:
    return _hold()


@DBOS.workflow(name="waits.writer", max_recovery_attempts=None)
def _writer() -> str:
    _hold()
    DBOS.set_event("key", "value")
    DBOS.write_stream("key", "value")
    DBOS.close_stream("key")
    return "written"


def _ended(function: Callable[[], Any]) -> str:
    """User code that believes it catches everything."""
    try:
        function()
    except Exception as error:
        _note(f"caught {error!r}")
    return _after()


@DBOS.workflow(name="waits.sleep", max_recovery_attempts=None)
def _sleep(seconds: float) -> str:
    return _ended(lambda: DBOS.sleep(seconds))


@DBOS.workflow(name="waits.message", max_recovery_attempts=None)
def _message(seconds: float) -> str:
    return _ended(lambda: _note(DBOS.recv("topic", timeout_seconds=seconds)))


@DBOS.workflow(name="waits.event", max_recovery_attempts=None)
def _event(seconds: float) -> str:
    return _ended(lambda: _note(DBOS.get_event("other", "key", timeout_seconds=seconds)))


@DBOS.workflow(name="waits.workflow", max_recovery_attempts=None)
def _result(_: float) -> str:
    return _ended(lambda: _note(DBOS.retrieve_workflow("other", existing_workflow=False).get_result()))


@DBOS.workflow(name="waits.first", max_recovery_attempts=None)
def _first(_: float) -> str:
    handles = [DBOS.retrieve_workflow(name, existing_workflow=False) for name in ("other", "third")]
    return _ended(lambda: _note(DBOS.wait_first(handles).get_workflow_id()))


@DBOS.workflow(name="waits.future", max_recovery_attempts=None)
def _future(_: float) -> str:
    return _ended(lambda: DBOS.start_workflow(_child).get_result())


@DBOS.workflow(name="waits.direct", max_recovery_attempts=None)
def _direct(_: float) -> str:
    return _ended(_child)


@DBOS.workflow(name="waits.stream", max_recovery_attempts=None)
def _stream(_: float) -> str:
    return _ended(lambda: _note(list(DBOS.read_stream("other", "key"))))


@DBOS.workflow(name="waits.sleep_async", max_recovery_attempts=None)
async def _sleep_async(seconds: float) -> str:
    await DBOS.sleep_async(seconds)
    return await _after_async()


@DBOS.workflow(name="waits.message_async", max_recovery_attempts=None)
async def _message_async(seconds: float) -> str:
    try:
        _note(await DBOS.recv_async("topic", timeout_seconds=seconds))
    except Exception as error:
        _note(f"caught {error!r}")
    return await _after_async()


@DBOS.workflow(name="waits.event_async", max_recovery_attempts=None)
async def _event_async(seconds: float) -> str:
    _note(await DBOS.get_event_async("other", "key", timeout_seconds=seconds))
    return await _after_async()


@DBOS.workflow(name="waits.workflow_async", max_recovery_attempts=None)
async def _result_async(_: float) -> str:
    handle = await DBOS.retrieve_workflow_async("other", existing_workflow=False)
    _note(await handle.get_result())
    return await _after_async()


@DBOS.workflow(name="waits.first_async", max_recovery_attempts=None)
async def _first_async(_: float) -> str:
    handles = [await DBOS.retrieve_workflow_async(n, existing_workflow=False) for n in ("other", "third")]
    _note((await DBOS.wait_first_async(handles)).get_workflow_id())
    return await _after_async()


@DBOS.workflow(name="waits.child_async", max_recovery_attempts=None)
async def _child_async() -> str:
    return await asyncio.to_thread(_hold_plain, str(DBOS.workflow_id))


def _hold_plain(workflow_id: str) -> str:
    _seen.setdefault(workflow_id, []).append("held")
    assert _gates[workflow_id].wait(20)
    return "held"


@DBOS.workflow(name="waits.task_async", max_recovery_attempts=None)
async def _task_async(_: float) -> str:
    handle = await DBOS.start_workflow_async(_child_async)
    await handle.get_result()
    return await _after_async()


@DBOS.workflow(name="waits.direct_async", max_recovery_attempts=None)
async def _direct_async(_: float) -> str:
    await _child_async()
    return await _after_async()


@DBOS.workflow(name="waits.stream_async", max_recovery_attempts=None)
async def _stream_async(_: float) -> str:
    _note([value async for value in DBOS.read_stream_async("other", "key")])
    return await _after_async()


@DBOS.step(name="waits.beside")
async def _beside() -> str:
    _note(("step", told(_database[0], str(DBOS.workflow_id)) is not None))
    while not _gates[str(DBOS.workflow_id)].is_set():  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return "done"


@DBOS.workflow(name="waits.gather", max_recovery_attempts=None)
async def _gather(seconds: float, pause: float) -> str:
    async def branch() -> str:
        await asyncio.sleep(pause)
        return await _beside()

    _, done = await asyncio.gather(DBOS.sleep_async(seconds), branch())
    return done


def _in_transaction() -> None:
    _note(("transaction", told(_database[0], str(DBOS.workflow_id)) is not None))
    assert _gates[str(DBOS.workflow_id)].wait(20)


async def _in_transaction_async() -> None:
    await asyncio.to_thread(_in_transaction)


@DBOS.workflow(name="waits.transaction", max_recovery_attempts=None)
async def _transaction(pause: float) -> None:
    async def branch() -> None:
        await asyncio.sleep(pause)
        (source,) = _source
        if isinstance(source, SQLAlchemyDatasource):
            await asyncio.to_thread(source.run_tx_step, {"name": "t"}, _in_transaction)
        else:
            await source.run_tx_step_async({"name": "t"}, _in_transaction_async)

    await asyncio.gather(DBOS.sleep_async(30), branch())


@DBOS.step(name="waits.inside")
def _inside() -> str:
    _note("inside")
    return str(DBOS.get_event("other", "key", timeout_seconds=20))


@DBOS.workflow(name="waits.step", max_recovery_attempts=None)
def _in_a_step(_: float) -> str:
    return _inside()


class _App:
    """A launched engine whose notices are heard."""

    def __init__(self, app: Launched) -> None:
        self.app = app
        self.database = app.database

    @property
    def waits(self) -> Waits:
        return self.app.engine.waits

    def start(self, name: str, *args: Any, workflow_id: str = "w", queue: str = _QUEUE) -> None:
        self.app.enqueue(f"waits.{name}", *args, queue=queue, workflow_id=workflow_id)
        self.app.waker.wake(queue)

    def waiting(self, workflow_id: str = "w") -> Row:
        """The row of a workflow that only waits."""
        row: Row = wait_until(lambda: told(self.database, workflow_id), f"{workflow_id} is told to wait")
        return row

    def cancel(self, workflow_id: str) -> None:
        self.app.client.cancel_workflow(workflow_id)

    def gone(self, workflow_id: str = "w") -> bool:
        return workflow_id not in self.app.engine.active()


def told(database: Database, workflow_id: str) -> Row | None:
    """What `own_work` and the verdicts see of it."""
    rows = database.rows(
        "SELECT x.*, extract(epoch FROM x.until - clock_timestamp())::float8 AS seconds FROM ops.waits x"
        " JOIN dbos.workflow_status w ON w.workflow_uuid = x.workflow_id AND w.owner_xid = x.owner_xid"
        " WHERE x.workflow_id = %(id)s",
        id=workflow_id,
    )
    return rows[0] if rows else None


@contextmanager
def _running(database: Database, prepare: Callable[[], None] = lambda: None) -> Iterator[_App]:
    _gates.clear()
    _seen.clear()
    _database[:] = [database]
    with launched(database, queues=(_QUEUE, _CHILDREN, names.WORKER_SUSPECTS_QUEUE), prepare=prepare) as made:
        listener = Listener(database.settings(), made.waker, purpose="holdfast/worker-engine/listener")
        listener.start()
        wait_until(lambda: made.waker.endings.notices_arrive, "notices are heard")
        for queue in (_QUEUE, _CHILDREN):
            wait_until(lambda queue=queue: queue in made.waker._wake_events, "its thread runs")
        yield _App(made)
        _gates.open_all()
        made.engine.stop_dequeuing()
        made.client.cancel_workflows(made.engine.active())
        wait_until(lambda: not made.engine.active(), "what waits is cancelled")
        listener.stop()


@pytest.fixture
def app(database: Database) -> Iterator[_App]:
    with _running(database) as made:
        yield made


_KINDS = {
    "sleep": ("sleep", None, True),
    "message": ("message", "topic", True),
    "event": ("event", "other/key", True),
    "workflow": ("workflow", "other", False),
    "first": ("workflow", "other and 1 more", False),
    "stream": ("stream", "other/key", False),
    "future": ("workflow", "w-1", False),
    "direct": ("workflow", "w-1", False),
}
_EVERY = [name for kind in _KINDS for name in (kind, "task_async" if kind == "future" else f"{kind}_async")]


def _told_kind(name: str) -> tuple[str, str | None, bool]:
    return _KINDS[name.removesuffix("_async").replace("task", "future")]


def _end(app: _App, name: str) -> None:
    """Makes what a workflow waits for happen."""
    kind = name.removesuffix("_async")
    if kind == "message":
        app.app.client.send("w", "yes", "topic")
    else:
        for workflow_id in ("other", "w-1"):
            _gates[workflow_id].set()


@pytest.mark.parametrize("name", _EVERY)
def test_a_wait_is_published_until_the_workflow_goes_on(app: _App, name: str) -> None:
    kind, subject, ends = _told_kind(name)
    app.start("writer", workflow_id="other", queue=_CHILDREN)
    seconds = 1.5 if kind == "sleep" else 20.0
    app.start(name, seconds)
    row = app.waiting()
    assert (row["kind"], row["subject"]) == (kind, subject)
    assert (row["seconds"] is not None) == ends
    if ends:
        assert seconds - 1 < row["seconds"] <= seconds
    _end(app, name)
    app.app.wait("w")
    assert _seen["w"][-1] == ("step", False), "told to wait while its step ran"
    assert app.database.rows("SELECT * FROM ops.waits") == []
    assert not [key for key in app.waits.runs.by_key if key[0] == "w"], "remembered although it waits no more"


@pytest.mark.parametrize("name", [name for name in _EVERY if "direct" not in name])
def test_a_cancel_ends_a_wait_at_once(app: _App, name: str) -> None:
    app.start("writer", workflow_id="other", queue=_CHILDREN)
    app.start(name, 30.0)
    app.waiting()
    app.cancel("w")
    wait_until(app.gone, "its place is free", seconds=2)
    assert not _seen.get("w"), "user code went on after the cancel"
    assert app.app.status("w") == "CANCELLED"
    wait_until(lambda: app.database.rows("SELECT * FROM ops.waits") == [], "its row is gone")


def test_a_cancel_whose_notice_was_missed_ends_a_wait_too(app: _App) -> None:
    app.app.waker.cancellations.cancelled = lambda _: None  # type: ignore[method-assign]
    app.waits.runs.settle_seconds = 0.5
    app.start("message", 30.0)
    wait_until(lambda: app.waits.runs.by_key, "it waits")
    app.cancel("w")
    wait_until(app.gone, "its place is free", seconds=2)


@pytest.mark.parametrize("name", ["sleep", "message_async"])
def test_a_workflows_own_timeout_ends_its_wait(app: _App, name: str) -> None:
    functions = {"sleep": _sleep, "message_async": _message_async}
    with SetWorkflowTimeout(1.0):
        handle = DBOS.enqueue_workflow(_QUEUE, functions[name], 30.0)  # type: ignore[arg-type]
    app.app.waker.wake(_QUEUE)
    wait_until(lambda: handle.get_workflow_id() in app.app.engine.active(), "it runs")
    wait_until(lambda: app.gone(handle.get_workflow_id()), "its place is free", seconds=5)
    assert app.app.status(handle.get_workflow_id()) == "CANCELLED"


def test_a_short_wait_costs_nothing(app: _App, monkeypatch: pytest.MonkeyPatch) -> None:
    statements: list[str] = []
    original = app.waits._statement

    def noting(name: str, /, **params: Any) -> list[Row]:
        statements.append(name)
        return original(name, **params)

    for part in (app.waits, app.waits._publisher):
        monkeypatch.setattr(part, "_statement", noting)
    app.app.enqueue("waits.message", 20.0, queue="nobody-polls-it", workflow_id="w")
    app.app.client.send("w", "early", "topic")
    app.database.rows("UPDATE dbos.workflow_status SET queue_name = %(queue)s", queue=_QUEUE)
    app.app.waker.wake(_QUEUE)
    app.app.wait("w")
    app.start("sleep", 0.01, workflow_id="short")
    app.app.wait("short")
    assert _seen["w"][0] == "early"
    assert statements == []
    app.start("sleep", 0.3, workflow_id="long")
    app.app.wait("long")
    assert statements == ["publish_waits", "withdraw_wait"]


def test_a_step_beside_a_wait_is_work(app: _App) -> None:
    """What it does to its process is counted, however long the other branch waits."""
    app.start("gather", 30.0, 0.5)
    app.waiting()
    wait_until(lambda: _seen.get("w"), "the step runs")
    assert _seen["w"] == [("step", False)], "withdrawn before the step's body begins"
    time.sleep(0.3)
    assert told(app.database, "w") is None, "a step still runs"
    _gates["w"].set()
    assert app.waiting()["kind"] == "sleep", "only the sleep is left"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_datasources_transaction_beside_a_wait_is_work(database: Database, kind: str) -> None:
    url = sqlalchemy_url(database.settings().database_url)
    options: Any = {"schema": "dbos", "run_migrations": False, "serializer": json_serializer()}

    def prepare() -> None:
        if kind == "sync":
            _source[:] = [SQLAlchemyDatasource.create(url, engine_kwargs={}, **options)]
        else:
            _source[:] = [asyncio.run(AsyncSQLAlchemyDatasource.create(url, engine_kwargs={}, **options))]

    with _running(database, prepare) as app:
        app.start("transaction", 0.5)
        app.waiting()
        wait_until(lambda: _seen.get("w"), "the transaction runs")
        assert _seen["w"] == [("transaction", False)], "withdrawn before its body begins"
        time.sleep(0.3)
        assert told(database, "w") is None, "it still runs"
        _gates["w"].set()
        assert app.waiting()["kind"] == "sleep", "only the sleep is left"
        dispose = _source[0].engine.dispose
        if kind == "sync":
            dispose()
        else:
            asyncio.run(dispose())


def test_a_wait_inside_a_step_is_the_steps(app: _App) -> None:
    app.start("step", 0)
    wait_until(lambda: _seen.get("w"), "the step runs")
    time.sleep(0.3)
    assert told(app.database, "w") is None
    app.cancel("w")
    wait_until(app.gone, "a cancel ends it all the same", seconds=2)


# --- released while it waits -------------------------------------------------------------------------


def _release(app: _App, *, only_waiting: bool) -> list[str]:
    with transaction(app.database.connect()) as connection:
        verdicts = release(
            connection,
            app.app.identity,
            app.app.identity,
            kind="handover",
            reason="drain",
            crash_limit=5,
            only_waiting=only_waiting,
        )
    return [verdict.work.workflow_id for verdict in verdicts]


@pytest.mark.parametrize("name", ["message", "message_async"])
def test_who_was_released_as_waiting_does_not_go_on_here(app: _App, name: str) -> None:
    """Its message comes just then: it is consumed where the workflow goes on."""
    app.start(name, 20.0)
    app.waiting()
    app.app.engine.stop_dequeuing()
    assert _release(app, only_waiting=True) == ["w"]
    app.app.client.send("w", "yes", "topic")
    wait_until(app.gone, "the execution here stops")
    assert not _seen.get("w"), "it went on in two places"
    assert app.app.status("w") == "ENQUEUED"
    assert app.database.one("SELECT count(*) FROM dbos.notifications WHERE NOT consumed") == 1


def test_what_waits_keeps_its_rest_and_its_deadline(app: _App) -> None:
    """Released and claimed again, a sleep and a timeout end when they would have."""
    with SetWorkflowTimeout(5.5):
        handle = DBOS.enqueue_workflow(_QUEUE, _message, 60.0)  # type: ignore[arg-type]
    app.app.waker.wake(_QUEUE)
    app.start("sleep", 5.0)
    begun = time.monotonic()
    ids = {"w", handle.get_workflow_id()}
    for workflow_id in ids:
        app.waiting(workflow_id)
    deadlines = {each: workflow(app.database, each)["workflow_deadline_epoch_ms"] for each in ids}
    time.sleep(1)
    with app.app.waker.pause_others("nobody's"):
        assert set(_release(app, only_waiting=True)) == ids
        app.waits.released(ids)
        wait_until(lambda: all(app.gone(each) for each in ids), "the executions here stop")
    for workflow_id in ids:
        seconds = app.waiting(workflow_id)["seconds"]
        assert seconds < {"w": 4.2}.get(workflow_id, 59.2), "it waits for the whole time again"
        assert workflow(app.database, workflow_id)["workflow_deadline_epoch_ms"] == deadlines[workflow_id]
    app.app.wait("w")
    assert time.monotonic() - begun > 4.9
    app.app.wait(handle.get_workflow_id(), "CANCELLED")
    wait_until(lambda: app.gone(handle.get_workflow_id()), "the wait ends with the timeout", seconds=1.5)


def test_a_release_locks_nothing_that_stays(app: _App) -> None:
    """With thousands that wait each suspect that begins to wait would hold up all of them."""
    app.start("child", workflow_id="runs")
    app.start("sleep", 30.0)
    app.start("sleep", 30.0, workflow_id="other")
    wait_until(lambda: _seen.get("runs"), "its step runs")
    for workflow_id in ("w", "other"):
        app.waiting(workflow_id)
    asked = ((["w"], True, {"w"}), (["runs"], False, {"runs"}), (None, True, {"w", "other"}))
    for only, only_waiting, found in asked:
        with transaction(app.database.connect()) as connection:
            rows = unfinished(connection, app.app.identity, only=only, only_waiting=only_waiting)
            assert set(rows) == found
            free = app.database.rows(
                "SELECT workflow_uuid AS id FROM dbos.workflow_status WHERE status = 'PENDING'"
                " FOR UPDATE SKIP LOCKED"
            )
            assert {row["id"] for row in free} == {"w", "other", "runs"} - found
            told_rows = app.database.rows("SELECT workflow_id FROM ops.waits FOR UPDATE SKIP LOCKED")
            assert {row["workflow_id"] for row in told_rows} == {"w", "other"} - found


def test_who_goes_on_is_not_released_as_waiting(app: _App) -> None:
    app.start("gather", 30.0, 0.5)
    app.waiting()
    wait_until(lambda: _seen.get("w"), "its step runs")
    assert _release(app, only_waiting=True) == []
    assert app.app.status("w") == "PENDING"


def test_a_suspect_that_waits_leaves_its_place_to_the_next(app: _App) -> None:
    for workflow_id, crashes in (("w", 2), ("next", 3)):
        app.database.rows(
            "INSERT INTO ops.crashes (workflow_id, crashes, steps_recorded, queue_name)"
            " VALUES (%(id)s, %(crashes)s, 0, %(home)s)",
            id=workflow_id,
            crashes=crashes,
            home=_QUEUE,
        )
    app.start("message", 30.0, queue=names.WORKER_SUSPECTS_QUEUE)
    wait_until(lambda: workflow(app.database, "w")["queue_name"] == _QUEUE, "it goes home")
    app.waiting()
    (handover,) = handovers(app.database, "w")
    assert (handover["kind"], handover["reason"]) == ("handover", "waits")
    assert app.database.one("SELECT crashes FROM ops.crashes WHERE workflow_id = 'w'") == 2
    app.app.client.send("w", "yes", "topic")
    app.app.wait("w")
    assert _seen["w"] == ["yes", ("step", False)], "it went on once"


def test_work_that_runs_is_not_given_back_as_waiting(app: _App) -> None:
    app.start("child", workflow_id="w")
    wait_until(lambda: _seen.get("w"), "it runs")
    settings, identity = app.database.settings(), app.app.identity
    assert release_claim(settings, identity, "w", reason="waits", only_waiting=True) is False
    assert app.app.status("w") == "PENDING"


def test_an_execution_that_lost_its_workflow_does_not_say_that_it_waits(database: Database) -> None:
    """The row of the execution that has it stays."""
    insert(database, ["w"], status="PENDING", owner_xid="owner")

    def publish(owner_xid: str) -> bool:
        wait = {"kinds": ["sleep"], "subjects": [None], "waited": [0.0], "seconds": [60.0]}
        (row,) = database.run("publish_waits", workflow_ids=["w"], owners=[owner_xid], **wait)
        return bool(row["published"])

    assert [publish("owner"), publish("lost")] == [True, False]
    assert database.one("SELECT owner_xid FROM ops.waits") == "owner"


# --- without notices, without a database ---------------------------------------------------------------


def test_a_missed_notice_costs_a_poll_at_the_next_session(app: _App) -> None:
    app.start("writer", workflow_id="other", queue=_CHILDREN)
    app.start("workflow", 0)
    app.waiting()
    app.app.waker.endings.ended = lambda _: None  # type: ignore[method-assign]
    _gates["other"].set()
    app.app.wait("other")
    time.sleep(0.3)
    assert app.app.status("w") == "PENDING"
    app.database.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%/listener'"
    )
    app.app.wait("w")


@pytest.mark.parametrize("name", ["message", "event_async"])
def test_what_comes_while_dbos_does_not_listen_is_heard(app: _App, name: str) -> None:
    """PostgreSQL restarts: DBOS's own listener is back a second later, and asks nothing then."""
    app.start("writer", workflow_id="other", queue=_CHILDREN)
    app.start(name, 50.0)
    app.waiting()
    db = app.app.dbos._sys_db
    db._run_background_processes = False
    app.database.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'holdfast/%%'",
        unused=None,
    )
    _end(app, name)
    app.app.wait("w", seconds=20)
    assert _seen["w"][0] in ("yes", "value")


def test_a_database_that_refuses_the_rows_fails_no_workflow(app: _App) -> None:
    app.database.rows("REVOKE ALL ON ops.waits FROM holdfast_worker")
    app.start("sleep", 0.5)
    app.app.wait("w")
    app.database.rows("GRANT SELECT, INSERT, UPDATE, DELETE ON ops.waits TO holdfast_worker")
    app.start("sleep", 2.0, workflow_id="again")
    app.waiting("again")
