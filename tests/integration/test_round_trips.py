"""Fewer round trips, the same rows: each replaced statement of DBOS 3.4.0 beside the one it replaces."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from dbos import DBOS
from dbos._error import (
    DBOSStepNondeterminismError,
    DBOSUnexpectedStepError,
    DBOSWorkflowCancelledError,
    DBOSWorkflowConflictIDError,
)

from services.runtime import children, round_trips
from services.runtime.database import OpsPool
from services.runtime.resources import Resources, provide
from tests.support.database import Database, wait_until
from tests.support.engines import Launched, launched
from tests.support.executors import insert, workflow
from tests.support.reporting import record

_LOOK = "look at services/runtime/round_trips.py and sql/trips.sql"
_QUEUES = ("trips-q", "trips-parents")
_CLOCK = ("created_at", "updated_at", "started_at_epoch_ms", "retention_timestamp")


@DBOS.workflow(name="trips.child", max_recovery_attempts=None)
def _child(number: int, text: str) -> int:
    return number + len(text)


@DBOS.step(name="trips.enqueue")
async def _enqueue() -> None:
    parent = DBOS.workflow_id
    calls = {f"{parent}-ours-{number}": (number, "text") for number in range(3)}
    for _ in range(2):
        await children.enqueue_missing("trips.child", calls, queue_name="trips-nobody", role="worker")


@DBOS.workflow(name="trips.parent", max_recovery_attempts=None)
async def _parent() -> None:
    from dbos import SetWorkflowID

    with SetWorkflowID(f"{DBOS.workflow_id}-theirs"):
        await DBOS.enqueue_workflow_async("trips-nobody", _child, 1, "text")
    await _enqueue()


@pytest.fixture
def app(database: Database) -> Iterator[Launched]:
    with launched(database, queues=_QUEUES) as made:
        yield made


def _queue(**limits: Any) -> Any:
    """As a queue's thread hands it over: a name, and which limits there are."""
    names = ("concurrency", "limiter", "partition_concurrency", "partition_worker_concurrency")
    fields = {f"_{name}": None for name in (*names, "partition_limiter", "worker_concurrency")}
    return SimpleNamespace(name="trips-q-apart", **(fields | {f"_{k}": v for k, v in limits.items()}))


def _claim(app: Launched, *, ours: bool, places: int | None = None, running: int = 0) -> list[Any]:
    """A claim and the rows that it read."""
    db, queue = app.dbos._sys_db, _queue(worker_concurrency=places)
    by: Callable[[str], Callable[..., Any]] = (
        (lambda name: getattr(db, name)) if ours else (lambda name: round_trips._original(db, name))
    )
    ids, _ = by("start_queued_workflows")(
        queue, "worker-x", app.identity.version, None, running, owner_xid="token", is_latest_version=None
    )
    found: list[Any] = by("get_workflow_statuses")(ids)
    assert [row["workflow_uuid"] for row in found] == ids
    return found


def _bare(row: dict[str, Any]) -> dict[str, Any]:
    """A row without its name; of the clock's columns, whether they are set."""
    return {
        key: (value is not None and value > 1_600_000_000_000) if key in _CLOCK else value
        for key, value in row.items()
        if key not in ("workflow_uuid", "creator_xid")
    }


@contextmanager
def _trips(app: Launched) -> Iterator[list[str]]:
    """What this thread sends meanwhile; a transaction's BEGIN and COMMIT are two more."""
    seen: list[str] = []
    here = threading.get_ident()

    def note(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if threading.get_ident() == here:
            seen.append(statement)
            if not connection.connection.dbapi_connection.autocommit:
                seen.extend(["BEGIN", "COMMIT"])

    engine = app.dbos._sys_db.engine
    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


# --- claims ---------------------------------------------------------------------------------------


def _waiting(database: Database, prefix: str, **columns: Any) -> None:
    insert(
        database,
        [f"{prefix}-{name}" for name in ("a", "b", "c")],
        **{"queue_name": "trips-q-apart", "recovery_attempts": 0, "name": "trips.child", **columns},
    )
    database.rows(
        "INSERT INTO dbos.workflow_input (workflow_uuid, inputs)"
        " SELECT workflow_uuid, '{\"positionalArgs\": [1]}' FROM dbos.workflow_status"
        " WHERE workflow_uuid LIKE %(some)s",
        some=f"{prefix}-%",
    )


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"workflow_timeout_ms": 60_000},
        {"workflow_timeout_ms": 2**63 - 2},
        {"workflow_timeout_ms": 5, "workflow_deadline_epoch_ms": 9_000_000_000_000},
        {"application_version": None},
        {"application_name": None},
        {
            "attributes": '{"dbos.otelContext": {"traceparent": "x"}}',
            "parent_workflow_id": "p",
            "priority": 4,
        },
        {"recovery_attempts": 3, "updated_at": 7, "schedule_name": "s", "serialization": "portable_json"},
    ],
    ids=lambda columns: "+".join(columns) or "plain",
)
def test_a_claim_writes_and_reads_what_dboss_does(app: Launched, columns: dict[str, Any]) -> None:
    _waiting(app.database, "one", **columns)
    theirs = _claim(app, ours=False)
    stored_theirs = [workflow(app.database, row["workflow_uuid"]) for row in theirs]
    _waiting(app.database, "two", **columns)
    ours = _claim(app, ours=True)
    stored_ours = [workflow(app.database, row["workflow_uuid"]) for row in ours]
    deadline = "workflow_deadline_epoch_ms"
    for mine, other in zip(ours + stored_ours, theirs + stored_theirs, strict=True):
        if deadline not in columns and other[deadline] not in (None, 2**63 - 1):
            assert 0 <= mine.pop(deadline) - other.pop(deadline) < 10_000
        assert _bare(mine) == _bare(other), _LOOK
        assert list(map(type, mine.values())) == list(map(type, other.values())), _LOOK
    assert len(ours) == 3


def test_what_a_claim_leaves_alone(app: Launched) -> None:
    """Another version, another application, another queue, a row without a version for the latest one."""
    _waiting(app.database, "version", application_version="worker-0")
    _waiting(app.database, "application", application_name="holdfast-api")
    _waiting(app.database, "queue", queue_name="another")
    _waiting(app.database, "later", status="DELAYED")
    _waiting(app.database, "running", status="PENDING")
    _waiting(app.database, "unversioned", application_version=None)
    app.database.rows(
        "INSERT INTO dbos.application_versions"
        " (version_id, version_name, version_timestamp, application_name)"
        " VALUES ('v', 'worker-9', 9000000000000, 'holdfast-worker')"
    )
    assert _claim(app, ours=True) == []
    assert _claim(app, ours=False) == []


def test_a_claims_order_and_its_places(app: Launched) -> None:
    _waiting(app.database, "late", priority=0, created_at=2_000_000_000_000)
    _waiting(app.database, "soon", priority=0, created_at=1_900_000_000_000)
    _waiting(app.database, "first", priority=-1, created_at=2_100_000_000_000)
    prefixes = [row["workflow_uuid"].split("-")[0] for row in _claim(app, ours=True, places=7)]
    assert prefixes == ["first"] * 3 + ["soon"] * 3 + ["late"]
    assert _claim(app, ours=True, places=7, running=7) == []
    assert len(_claim(app, ours=True, places=9, running=8)) == 1


def test_claimers_at_once_get_different_work(app: Launched) -> None:
    for number in range(20):
        _waiting(app.database, f"w{number}")
    claimed: list[str] = []

    def work() -> None:
        while rows := _claim(app, ours=True, places=3):
            claimed.extend(row["workflow_uuid"] for row in rows)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(claimed) == len(set(claimed)) == 60


def test_a_locked_row_is_somebody_elses(app: Launched) -> None:
    _waiting(app.database, "w")
    connection = app.database.connect()
    with connection.cursor() as cursor:
        cursor.execute("BEGIN; SELECT FROM dbos.workflow_status WHERE workflow_uuid = 'w-b' FOR UPDATE")
        assert [row["workflow_uuid"] for row in _claim(app, ours=True)] == ["w-a", "w-c"]
        cursor.execute("ROLLBACK")


def test_a_queue_with_a_shared_limit_is_left_to_dbos(app: Launched, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        round_trips, "_original", lambda _, name: lambda *_a, **_o: asked.append(name) or ([], None)
    )
    db = app.dbos._sys_db
    for limits in ({"concurrency": 3}, {"limiter": {"limit": 1, "period": 1}}, {"partition_concurrency": 1}):
        db.start_queued_workflows(_queue(**limits), "worker-x", "worker-1", None, 0, owner_xid="t")
    db.start_queued_workflows(_queue(), "worker-x", "worker-1", "a partition", 0, owner_xid="t")
    assert asked == ["start_queued_workflows"] * 4


# --- steps ----------------------------------------------------------------------------------------


def _result(workflow_id: str, **fields: Any) -> dict[str, Any]:
    return {
        "workflow_uuid": workflow_id,
        "function_id": 1,
        "function_name": "a.step",
        "started_at_epoch_ms": 1_700_000_000_000,
        "output": '{"x": 1}',
        "serialization": "portable_json",
        "error": None,
        "child_workflow_id": None,
        **fields,
    }


def _steps(database: Database, workflow_id: str) -> list[dict[str, Any]]:
    return [
        _bare(row)
        for row in database.rows(
            "SELECT * FROM dbos.operation_outputs WHERE workflow_uuid = %(id)s ORDER BY function_id",
            id=workflow_id,
        )
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"output": None, "error": "why"},
        {"child_workflow_id": "c", "output": None},
        {"function_id": 70_000},
    ],
    ids=lambda fields: "+".join(fields) or "output",
)
def test_a_record_is_the_row_that_dbos_writes(app: Launched, fields: dict[str, Any]) -> None:
    db = app.dbos._sys_db
    insert(app.database, ["ours", "theirs"], status="PENDING", owner_xid="mine")
    db.record_operation_result(_result("ours", **fields), owner_xid="mine", completed_at_epoch_ms=5)
    round_trips._original(db, "record_operation_result")(
        _result("theirs", **fields), owner_xid="mine", completed_at_epoch_ms=5
    )
    assert _steps(app.database, "ours") == _steps(app.database, "theirs"), _LOOK
    assert len(_steps(app.database, "ours")) == 1


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "DBOS's"])
def test_who_may_record_what(app: Launched, ours: bool) -> None:
    db = app.dbos._sys_db
    record = db.record_operation_result if ours else round_trips._original(db, "record_operation_result")
    insert(app.database, ["w"], status="PENDING", owner_xid="mine")
    with pytest.raises(DBOSWorkflowConflictIDError):
        record(_result("w"), owner_xid="another's")
    with pytest.raises(DBOSWorkflowConflictIDError):
        record(_result("unknown"), owner_xid="mine")
    assert _steps(app.database, "w") == []
    for _ in range(2):
        record(_result("w"), owner_xid="mine", completed_at_epoch_ms=5)
    with pytest.raises(DBOSStepNondeterminismError):
        record(_result("w", output='{"x": 2}'), owner_xid="mine", completed_at_epoch_ms=6)
    (step,) = _steps(app.database, "w")
    assert (step["output"], step["completed_at_epoch_ms"]) == ('{"x": 1}', 5)


def test_a_record_waits_for_a_takeover_and_then_bounces(app: Launched) -> None:
    """The owner changes in a transaction that is open when the record begins."""
    db = app.dbos._sys_db
    insert(app.database, ["w"], status="PENDING", owner_xid="mine")
    connection = app.database.connect()
    found: list[BaseException] = []

    def record() -> None:
        try:
            db.record_operation_result(_result("w"), owner_xid="mine")
        except BaseException as error:
            found.append(error)

    with connection.cursor() as cursor:
        cursor.execute("BEGIN; UPDATE dbos.workflow_status SET owner_xid = 'new' WHERE workflow_uuid = 'w'")
        thread = threading.Thread(target=record)
        thread.start()
        thread.join(0.5)
        assert thread.is_alive(), "it did not wait for the open transaction"
        cursor.execute("COMMIT")
    thread.join(30)
    assert [type(error) for error in found] == [DBOSWorkflowConflictIDError], found
    assert _steps(app.database, "w") == []


def test_a_look_at_a_step(app: Launched) -> None:
    db = app.dbos._sys_db
    insert(app.database, ["w"], status="PENDING", owner_xid="mine")
    assert db.check_operation_execution("w", 1, "a.step") is None
    db.record_operation_result(_result("w"), owner_xid="mine")
    theirs = round_trips._original(db, "check_operation_execution")("w", 1, "a.step")
    assert db.check_operation_execution("w", 1, "a.step") == theirs
    assert theirs["output"] == '{"x": 1}'
    with pytest.raises(DBOSUnexpectedStepError):
        db.check_operation_execution("w", 1, "another.step")
    app.database.rows("UPDATE dbos.workflow_status SET status = 'CANCELLED'")
    with pytest.raises(DBOSWorkflowCancelledError):
        db.check_operation_execution("w", 2, "a.step")


def test_an_owner(app: Launched) -> None:
    db = app.dbos._sys_db
    insert(app.database, ["owned"], status="PENDING", owner_xid="mine")
    insert(app.database, ["waiting"])
    for workflow_id, owner in (("owned", "mine"), ("waiting", None), ("unknown", None)):
        assert db.get_workflow_owner(workflow_id) == owner
        assert round_trips._original(db, "get_workflow_owner")(workflow_id) == owner


# --- how many -------------------------------------------------------------------------------------


def test_how_many_round_trips(app: Launched) -> None:
    db = app.dbos._sys_db
    _waiting(app.database, "w")
    with _trips(app) as seen:
        assert len(_claim(app, ours=True)) == 3
    assert len(seen) == 1, seen
    with _trips(app) as seen:
        db.check_operation_execution("w-a", 1, "a.step")
    assert len(seen) == 2, seen
    with _trips(app) as seen:
        db.record_operation_result(_result("w-a"), owner_xid="token")
    assert len(seen) == 1, seen
    with _trips(app) as seen:
        db.get_workflow_owner("w-a")
    assert len(seen) == 1, seen
    with _trips(app) as seen:
        assert db.get_queue("trips-q") is not None
    assert len(seen) == 1, seen


def test_a_claim_among_many_is_no_slower_than_dboss(app: Launched) -> None:
    """50,000 wait and 100,000 have ended: 1.0 ms beside DBOS's 3.9 ms, with twice as many."""
    for prefix, status, count in (("wait", "ENQUEUED", 50_000), ("done", "SUCCESS", 100_000)):
        app.database.rows(
            "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, queue_name, application_name,"
            " application_version, recovery_attempts, created_at, updated_at)"
            " SELECT %(prefix)s || i, %(status)s, 'trips.child', 'trips-q-apart', 'holdfast-worker',"
            " %(version)s, 0, i, i FROM generate_series(1, %(count)s) AS i",
            prefix=prefix,
            status=status,
            version=app.identity.version,
            count=count,
        )
    app.database.rows("VACUUM ANALYZE dbos.workflow_status")
    medians = {}
    for ours in (False, True):
        took = []
        for _ in range(25):
            begun = time.perf_counter()
            assert len(_claim(app, ours=ours, places=3)) == 3
            took.append(time.perf_counter() - begun)
        medians[ours] = sorted(took)[12]
        record(f"claim of 3 of 50,000, {'ours' if ours else 'DBOS'}, milliseconds", 1000 * medians[ours])
    assert medians[True] < medians[False], medians


def test_a_session_that_ended_while_idle_is_not_used(app: Launched) -> None:
    """Without a ping and without an error: every session of the pool is terminated first."""
    db = app.dbos._sys_db
    insert(app.database, ["w"], status="PENDING", owner_xid="mine")
    tries = round_trips._original(db, "check_operation_execution").__wrapped__
    for _ in range(3):
        ended = app.database.rows(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name LIKE '%/dbos' AND query NOT LIKE 'LISTEN%'"
        )
        assert ended
        # The undecorated method: nothing retries it.
        assert tries(db, "w", 1, "a.step") is None


def test_the_replaced_methods_take_what_dbos_hands_over() -> None:
    """A parameter more may be one that changes what is claimed or recorded."""
    wanted = {
        "start_queued_workflows": [
            "self", "queue", "executor_id", "app_version", "queue_partition_key", "local_running_count",
            "partition_local_running_count", "owner_xid", "is_latest_version",
        ],
        "get_workflow_statuses": ["self", "workflow_ids"],
        "check_operation_execution": ["self", "workflow_id", "function_id", "function_name", "owner_key"],
        "get_workflow_owner": ["self", "workflow_id"],
        "get_queue": ["self", "name", "client_system_database"],
        "list_queues": ["self", "application_name", "client_system_database"],
        "record_operation_result": ["self", "result", "completed_at_epoch_ms", "owner_xid", "owner_key"],
    }  # fmt: skip
    round_trips.install()
    originals: dict[str, Any] = round_trips.PostgresSystemDatabase.many_trips  # type: ignore[attr-defined]
    found = {name: list(inspect.signature(method).parameters) for name, method in originals.items()}
    assert found == wanted, _LOOK


# --- children -------------------------------------------------------------------------------------


def test_children_are_enqueued_as_dbos_enqueues_them(app: Launched) -> None:
    settings = app.database.settings()
    pool = OpsPool(settings, purpose="test/steps")
    provide(Resources(settings, app.identity.executor_id, pool, app.waker))
    try:
        app.queue("trips-parents")
        app.enqueue("trips.parent", queue="trips-parents", workflow_id="p")
        app.wait("p")
    finally:
        provide(None)
        pool.close()
    theirs = workflow(app.database, "p-theirs")
    inputs = {
        row["workflow_uuid"]: _bare(row)
        for row in app.database.rows("SELECT * FROM dbos.workflow_input WHERE workflow_uuid LIKE 'p-%'")
    }
    for number in range(3):
        assert _bare(workflow(app.database, f"p-ours-{number}")) == _bare(theirs), _LOOK
    assert inputs["p-ours-1"] == inputs["p-theirs"], _LOOK
    # They run as DBOS's own do.
    app.database.rows(
        "UPDATE dbos.workflow_status SET queue_name = 'trips-q' WHERE queue_name = 'trips-nobody'"
    )
    app.queue("trips-q")
    for name in ("p-theirs", "p-ours-0", "p-ours-1", "p-ours-2"):
        app.wait(name)
    outputs = app.database.rows(
        "SELECT workflow_uuid AS id, output FROM dbos.workflow_output WHERE workflow_uuid LIKE 'p-%'"
    )
    assert {row["id"]: row["output"] for row in outputs} == {
        "p-theirs": "5", "p-ours-0": "4", "p-ours-1": "5", "p-ours-2": "6",
    }  # fmt: skip
    wait_until(lambda: app.engine.active() == [], "nothing runs")
