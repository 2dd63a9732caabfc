"""No outage of PostgreSQL reaches a workflow's code: each call of DBOS's waits for its end, and repeats."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import dbos._sys_db
import dbos._sys_db_postgres
import dbos._utils
import psycopg
import psycopg2
import pytest
import sqlalchemy as sa
from dbos import DBOS, AsyncSQLAlchemyDatasource, Debouncer, SetWorkflowID, SQLAlchemyDatasource

from holdfast.dbos_adapter import retries
from holdfast.dbos_adapter.ledger import EffectLedger
from holdfast.dbos_adapter.schema import sqlalchemy_url
from holdfast.dbos_adapter.serializer import json_serializer
from holdfast.postgres.database import connect
from holdfast.postgres.outage import REACH, Reach, is_outage
from holdfast.postgres.sessions import SESSION_OPTIONS, Sessions
from tests.support.database import Database, Server
from tests.support.engines import Launched, launched
from tests.support.injected import ANSWER_LOST, LOST, OUTAGES, REFUSALS, Injector, error_of, injecting

_LOOK = "look at holdfast/dbos_adapter/retries.py"
_QUEUE = "outages-q"
_numbers = itertools.count()
_means: Any = SimpleNamespace()
"""The effect ledger and two datasources."""
_injector: Injector
_arming: dict[str, Any] = {}


# --- what a workflow and a step can call ------------------------------------------------------------


def _id() -> str:
    return str(DBOS.workflow_id)


@DBOS.step(name="outages.step")
def _step() -> int:
    return 1


@DBOS.step(name="outages.step_async")
async def _step_async() -> int:
    return 1


@DBOS.workflow(name="outages.child", max_recovery_attempts=None)
def _child(number: int) -> int:
    return number


def _send_and_receive() -> None:
    DBOS.send(_id(), "text", "topic")
    assert DBOS.recv("topic", timeout_seconds=5) == "text"


def _stream() -> None:
    DBOS.write_stream("stream", 1)
    DBOS.close_stream("stream")
    # From a step an entry may come twice, as the step itself may.
    assert set(DBOS.read_stream(_id(), "stream")) == {1}


def _insert(session: Any) -> int:
    return int(session.execute(sa.text("SELECT 7")).scalar())


def _fork() -> None:
    with SetWorkflowID(f"{_id()}-fork-{next(_numbers)}"):
        DBOS.fork_workflow("seven", 1)


def _schedules() -> None:
    name = f"s{next(_numbers)}"
    DBOS.create_schedule(schedule_name=name, workflow_fn=_tick, schedule="0 0 1 1 *")
    DBOS.pause_schedule(name)
    DBOS.resume_schedule(name)
    assert DBOS.get_schedule(name)
    assert DBOS.list_schedules(schedule_name_prefix=name)
    DBOS.delete_schedule(name)


@DBOS.workflow(name="outages.tick")
def _tick(_at: Any, _context: Any) -> None:
    pass


def _queues() -> None:
    name = f"q{next(_numbers)}"
    DBOS.register_queue(name, worker_concurrency=0)
    queue = DBOS.retrieve_queue(name)
    assert queue
    queue.set_worker_concurrency(1)
    assert DBOS.list_queues()
    DBOS.delete_queue(name)


CALLS: dict[str, Callable[[], Any]] = {
    "nothing but the outcome": lambda: None,
    "step": _step,
    "events": lambda: (DBOS.set_event("key", 1), DBOS.get_event(_id(), "key", timeout_seconds=5)),
    "all events": lambda: DBOS.get_all_events(_id()),
    "streams": _stream,
    "a result": lambda: DBOS.get_result("seven"),
    "cancel and resume": lambda: (DBOS.cancel_workflow("eight"), DBOS.resume_workflow("eight")),
    "delete": lambda: DBOS.delete_workflow("nothing"),
    "attributes": lambda: DBOS.update_workflow_attributes("seven", {"a": 1}),
    "the latest version": lambda: DBOS.set_latest_application_version(DBOS.application_version),
    "schedules": _schedules,
    "queues": _queues,
}
ONLY_WORKFLOWS: dict[str, Callable[[], Any]] = {
    "debounce": lambda: Debouncer.create(_child, queue=_QUEUE).debounce(f"k{next(_numbers)}", 600, 1),
    "messages": _send_and_receive,
    "sleep": lambda: DBOS.sleep(0.001),
    "a child": lambda: DBOS.start_workflow(_child, 3).get_result(),
    "a child on a queue": lambda: DBOS.enqueue_workflow(_QUEUE, _child, 3).get_result(),
    "an effect": lambda: _means.ledger.record("effect", executor_id="x", n=1, sha256="x"),
    "a transaction": lambda: _means.source.run_tx_step(None, lambda: _insert(_means.source.sql_session())),
    "patch": lambda: DBOS.patch("new"),
}
# What these return, portable JSON does not hold: no workflow here can call them outside a step.
ONLY_STEPS: dict[str, Callable[[], Any]] = {
    "fork": _fork,
    "a status": lambda: DBOS.get_workflow_status("seven"),
    "the first of several": lambda: DBOS.wait_first([DBOS.retrieve_workflow("seven")]),
    "lists": lambda: (DBOS.list_workflows(), DBOS.list_queued_workflows(), DBOS.list_workflow_steps("seven")),
    "versions": lambda: (DBOS.list_application_versions(), DBOS.get_latest_application_version()),
    "apply schedules": lambda: DBOS.apply_schedules(
        [{"schedule_name": "applied", "workflow_fn": _tick, "schedule": "0 0 1 1 *"}]
    ),
}


async def _events_async() -> None:
    await DBOS.set_event_async("key", 1)
    assert await DBOS.get_event_async(_id(), "key", timeout_seconds=5) == 1


async def _messages_async() -> None:
    await DBOS.send_async(_id(), "text", "topic")
    assert await DBOS.recv_async("topic", timeout_seconds=5) == "text"


@DBOS.workflow(name="outages.child_async", max_recovery_attempts=None)
async def _async_child(number: int) -> int:
    return number


async def _child_async() -> None:
    await (await DBOS.start_workflow_async(_async_child, 3)).get_result()


async def _insert_async() -> int:
    return int((await _means.async_source.sql_session().execute(sa.text("SELECT 7"))).scalar())


ASYNC_CALLS: dict[str, Callable[[], Awaitable[Any]]] = {
    "nothing but the outcome": lambda: asyncio.sleep(0),
    "step": _step_async,
    "sleep": lambda: DBOS.sleep_async(0.001),
    "events": _events_async,
    "messages": _messages_async,
    "a child": _child_async,
    "a transaction": lambda: _means.async_source.run_tx_step_async(None, _insert_async),
    "patch": lambda: DBOS.patch_async("new"),
}


@DBOS.step(name="outages.in_step")
def _in_step(name: str) -> str:
    return _tried((CALLS | ONLY_STEPS)[name])


def _tried(call: Callable[[], Any]) -> str:
    _injector.arm(**_arming)
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "fine"


@DBOS.workflow(name="outages.calls", max_recovery_attempts=None)
def _calls(kind: str, name: str) -> str:
    return _in_step(name) if kind == "step" else _tried((CALLS | ONLY_WORKFLOWS)[name])


@DBOS.workflow(name="outages.calls_async", max_recovery_attempts=None)
async def _calls_async(name: str) -> str:
    _injector.arm(**_arming)
    try:
        await ASYNC_CALLS[name]()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "fine"


@pytest.fixture(scope="module")
def app(server: Server) -> Iterator[Launched]:
    """One for all: an injected error leaves nothing behind."""
    with Database.lent(server) as database:
        # A worker's role may do less; what it may not do shows elsewhere (test_roles.py).
        database.rows(
            "GRANT ALL ON ALL TABLES IN SCHEMA dbos TO holdfast_worker;"
            " GRANT ALL ON ALL SEQUENCES IN SCHEMA dbos TO holdfast_worker"
        )
        url = sqlalchemy_url(database.settings().database_url)
        options: dict[str, Any] = {
            "schema": "dbos",
            "run_migrations": False,
            "serializer": json_serializer(),
            "engine_kwargs": {"connect_args": SESSION_OPTIONS},
        }
        sessions = Sessions(database.settings(), purpose="holdfast/worker-engine/trips", size=4)

        def prepare() -> None:
            _means.ledger = EffectLedger(
                database.settings(), sessions, application="holdfast-worker", purpose="effects"
            )
            _means.source = SQLAlchemyDatasource.create(url, **options)
            _means.async_source = asyncio.run(AsyncSQLAlchemyDatasource.create(url, **options))

        with launched(database, queues=[_QUEUE], prepare=prepare) as made:
            made.queue(_QUEUE, worker_concurrency=None)
            with SetWorkflowID("seven"):
                _child(7)
            with SetWorkflowID("eight"):
                DBOS.enqueue_workflow("outages-nobody", _child, 8)
            yield made
            _means.source.engine.dispose()
            asyncio.run(_means.async_source.engine.dispose())
            _means.ledger.datasource.engine.dispose()
            sessions.close()


@pytest.fixture
def injector(app: Launched, monkeypatch: pytest.MonkeyPatch) -> Iterator[Injector]:
    global _injector
    with injecting(monkeypatch) as _injector:
        yield _injector


def _seen(injector: Injector, **arming: Any) -> dict[str, str]:
    """What the code of a workflow and of a step saw of it, by call; only what was not fine."""
    global _arming  # noqa: PLW0603
    _arming = arming
    seen = {}
    wanted = [("workflow", name) for name in (*CALLS, *ONLY_WORKFLOWS)]
    wanted += [("step", name) for name in (*CALLS, *ONLY_STEPS)] + [("async", name) for name in ASYNC_CALLS]
    for kind, name in wanted:
        handle: Any = (
            DBOS.start_workflow(_calls_async, name)
            if kind == "async"
            else DBOS.start_workflow(_calls, kind, name)
        )
        try:
            answer = handle.get_result(polling_interval_sec=0.005)
        except Exception as error:
            answer = f"ended by {type(error).__name__}: {error}"
        if answer != "fine":
            seen[f"{name} ({kind})"] = answer.partition("\n")[0]
    injector.disarm()
    return seen


@pytest.mark.parametrize("state", [LOST, *OUTAGES])
def test_no_outage_reaches_the_code(injector: Injector, state: str) -> None:
    seen = _seen(injector, state=state, times=3)
    assert seen == {}, f"{_LOOK}: {seen}"
    assert injector.thrown > 3 * len(CALLS), "the errors were thrown"


@pytest.mark.parametrize("skip", range(1, 8))
def test_nor_one_that_begins_in_the_middle(
    injector: Injector, monkeypatch: pytest.MonkeyPatch, skip: int
) -> None:
    # A real server says itself that it only reads.
    monkeypatch.setattr(retries, "server_reads_only", lambda _: True)
    assert _seen(injector, state="25006", skip=skip) == {}, _LOOK


def test_a_commit_whose_answer_is_lost_is_not_done_twice(injector: Injector) -> None:
    for skip in range(3):
        assert _seen(injector, state=ANSWER_LOST, skip=skip) == {}, _LOOK


# --- what is no outage ------------------------------------------------------------------------------


@pytest.mark.parametrize("state", REFUSALS)
def test_a_refusal_reaches_the_code_at_once(injector: Injector, state: str) -> None:
    global _arming  # noqa: PLW0603
    _arming = {"state": state, "times": 1}
    answer = DBOS.start_workflow(_calls, "step", "lists").get_result(polling_interval_sec=0.005)
    assert error_of(state).__class__.__name__ in answer
    assert injector.thrown == 1


def test_what_the_driver_refuses_is_no_outage(app: Launched) -> None:
    """A real refusal: PostgreSQL's protocol counts parameters with two bytes."""
    ids = sa.column("id").in_([str(number) for number in range(70_000)])
    with _means.source.engine.connect() as session:
        with pytest.raises(sa.exc.OperationalError, match="number of parameters") as refused:
            session.execute(sa.select(sa.literal("1").label("id")).where(ids))
        assert not retries._is_retried(refused.value)
        assert not retries._is_retried_effect(refused.value, lambda _: False)


@DBOS.workflow(name="outages.users", max_recovery_attempts=None)
def _users(statement: str) -> str:
    def run() -> None:
        for each in statement.split("; "):
            _means.source.sql_session().execute(sa.text(each))

    try:
        _means.source.run_tx_step(None, run)
    except sa.exc.DBAPIError as error:
        return str(getattr(error.orig, "sqlstate", None))
    return "fine"


@pytest.mark.parametrize(
    ("statement", "state"),
    [
        ("SET TRANSACTION READ ONLY; DELETE FROM ops.effects", "25006"),
        ("SET LOCAL statement_timeout = 50; SELECT pg_sleep(5)", "57014"),
        ("SELECT nothing FROM nowhere", "42P01"),
        ("SELECT 1 / 0", "22012"),
    ],
)
def test_a_users_own_statement_fails_as_it_is(app: Launched, statement: str, state: str) -> None:
    assert _users(statement) == state


@DBOS.workflow(name="outages.own_connection", max_recovery_attempts=None)
def _own_connection() -> str:
    def write() -> None:
        raise psycopg.errors.ReadOnlySqlTransaction("of a database of the user's own")

    try:
        DBOS.run_step({"name": "outages.write"}, write)
    except Exception as error:
        return str(error)
    return "fine"


def test_an_outage_of_another_database_is_the_steps_own_error(app: Launched) -> None:
    assert "of the user's own" in _own_connection()


# --- the list is complete ---------------------------------------------------------------------------

# DBOS's own threads call these and handle the error, or nothing but the start and the operator's client does.
ELSEWHERE = {
    "_begin": "claims, by queue threads",
    "_flush_notifications": "a thread, which goes on",
    "_get_direct_children": "inside get_workflow_children, which is retried",
    "_is_latest_version": "claims, by queue threads",
    "_keyless_connection": "sharded databases only",
    "_max_partition_key_created_at": "inside init_workflows, which is retried",
    "_notification_listener": "a thread, which goes on",
    "_notification_listener_polling": "a thread, which goes on",
    "_observability_query": "inside retried methods",
    "_refuse_sharded_schema": "the start",
    "_rename_rows_in_batches": "rename_application",
    "_update_workflow_outcome_in_transaction": "inside update_workflow_outcome, which is retried",
    "background_job_lock": "a thread, which goes on",
    "cancel_timed_out_workflows": "a thread, which goes on",
    "check_connection": "the start",
    "create_application_version": "the start",
    "get_event_check": "catches every error",
    "recv_check": "catches every error",
    "rename_application": "a client's",
    "run_migrations": "the start",
    "start_queued_partitioned_workflows": "claims, by queue threads",
    "update_last_fired_at": "a thread, which goes on",
    "verify_migrations": "the start",
    "_truncate_system_database": "tests",
    "_reset_system_database": "tests",
}


def test_every_method_that_reaches_the_database_is_retried_or_known() -> None:
    kind = dbos._sys_db_postgres.PostgresSystemDatabase
    unknown = set()
    for owner in (dbos._sys_db.SystemDatabase, kind):
        for name, method in vars(owner).items():
            if not inspect.isfunction(method) or hasattr(method, "waits_for_postgres"):
                continue
            source = inspect.getsource(method)
            reaches = "engine.begin()" in source or "engine.connect()" in source or "raw_connection" in source
            if reaches and "db_retry(" not in source:
                unknown.add(name)
    assert unknown - set(retries._UNRETRIED) - set(ELSEWHERE) == set(), f"{_LOOK}: _UNRETRIED"
    for name in retries._UNRETRIED:
        assert hasattr(getattr(kind, name), "waits_for_postgres"), name
        source = inspect.getsource(getattr(dbos._sys_db.SystemDatabase, name))
        assert "db_retry(" not in source, f"DBOS retries {name} by itself now: delete ours"


# --- how it waits -----------------------------------------------------------------------------------


def test_the_sleep_between_retries_is_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    look = f"{_LOOK}: db_retry no longer sleeps by dbos._sys_db.time.sleep"
    slept: list[float] = []
    monkeypatch.setattr(dbos._sys_db, "time", retries._ShortSleep())
    monkeypatch.setattr(dbos._sys_db, "retriable_postgres_exception", retries._is_retried)
    monkeypatch.setattr(REACH, "wait_for_return", slept.append)
    monkeypatch.setattr(REACH, "back_at", float("-inf"))
    failures = iter(range(9))

    @dbos._sys_db.db_retry()
    def call() -> str:
        if next(failures) < 8:
            raise sa.exc.InternalError("SELECT 1", {}, error_of("25006"))
        return "done"

    assert call() == "done"
    assert len(slept) == 8, look
    assert max(slept) <= retries.RETRY_CAP_SECONDS * 1.5, f"{look}: {slept}"
    assert min(slept[2:]) >= retries.RETRY_CAP_SECONDS / 2, "a read-only server answers at once: no busy loop"
    assert dbos._sys_db.time.monotonic() > 0, "the rest of the module still works"


def test_an_unresolved_host_name_is_an_outage() -> None:
    """Real errors of both drivers: while the database's container is away, its name resolves to nothing."""
    with pytest.raises(sa.exc.OperationalError) as away:
        sa.create_engine("postgresql+psycopg://nobody@host.invalid/nothing").connect()
    assert not dbos._utils.retriable_postgres_exception(away.value), "DBOS retries it by itself now"
    assert retries._is_retried(away.value)
    assert retries._is_retried_effect(away.value, lambda _: False)
    with pytest.raises(psycopg2.OperationalError) as refused:
        psycopg2.connect("postgresql://nobody@host.invalid/nothing")
    assert is_outage(refused.value)


@pytest.mark.timing
def test_a_retry_sleeps_until_a_session_can_be_opened_again(database: Database) -> None:
    reach = Reach()
    sleeps = retries._ShortSleep()
    slept: list[float] = []

    def sleeper() -> None:
        begun = time.monotonic()
        sleeps.sleep(0.5)
        slept.append(time.monotonic() - begun)

    def asleep() -> threading.Thread:
        thread = threading.Thread(target=sleeper)
        thread.start()
        time.sleep(0.2)
        return thread

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retries, "REACH", reach)
        patch.setattr("holdfast.postgres.database.REACH", reach)
        there = asleep()
        connect(database.settings(), purpose="holdfast/worker-test/sweep").close()
        there.join(20)
        assert slept.pop() >= 0.5, "a session that comes and goes is no return"
        reach.lost()
        away = asleep()
        time.sleep(0.5)
        assert away.is_alive(), "it would ask again, and be busy asking when the database is back"
        connect(database.settings(), purpose="holdfast/worker-test/lease").close()
        away.join(2)
        assert slept.pop() < 2, "the database was reached, and it slept on"
        begun = time.monotonic()
        sleeps.sleep(20)
        assert time.monotonic() - begun < 0.5, "a try from before the return failed: the next comes at once"
