"""What Holdfast relies on inside DBOS 3.4.0 that DBOS does not promise, name by name.

When an upgrade of ``dbos`` turns one of these red, its message says which part of Holdfast to look at.
Until that part is mended, keep the old pin: the rest of the suite may still pass.
"""

from __future__ import annotations

import inspect
import re
import threading
import time
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from importlib.metadata import version
from typing import Any, get_args

import dbos._core
import dbos._datasource
import dbos._datasource_migration
import dbos._migration
import dbos._queue
import dbos._scheduler
import dbos._sys_db
import dbos._utils
import pytest
from dbos import DBOS

from holdfast.api.streams import CLOSED
from holdfast.dbos_adapter import schedules, wake_ups
from holdfast.dbos_adapter.cron import tick_id
from holdfast.dbos_adapter.patches import PRIVATE_NAMES
from holdfast.dbos_adapter.schedules import guard_schedule
from holdfast.dbos_adapter.slots import Slots
from holdfast.dbos_adapter.waiting import notices
from holdfast.durable.workflows import DbosWorkflow
from holdfast.installations.embedded import ROOT
from holdfast.observability import tracing
from holdfast.postgres.database import query, transaction
from holdfast.statuses import TERMINAL, UNFINISHED, Status
from tests.support import names
from tests.support.database import Database, wait_until
from tests.support.engines import Gates, Launched, launched
from tests.support.executors import Peer, claim, handovers, insert, unfinished, workflow
from tests.support.private_names import ADAPTER, defined, used_names
from tests.support.purging import everything, references
from tests.support.sources import source_files

_QUEUES = ("contract-q", "contract-parents")
_gates = Gates()
_entered: dict[str, threading.Event] = {}


@DBOS.step(name="contract.step")
def _step(number: int) -> int:
    return number


@DBOS.step(name="contract.hold")
def _hold() -> str:
    workflow_id = str(DBOS.workflow_id)
    _entered.setdefault(workflow_id, threading.Event()).set()
    assert _gates[workflow_id].wait(20)
    return "held"


@DBOS.workflow(name="contract.quick", max_recovery_attempts=None)
def _quick() -> int:
    return _step(1)


@DBOS.workflow(name="contract.fails", max_recovery_attempts=None)
def _fails() -> None:
    raise ValueError("it fails")


@DBOS.workflow(name="contract.held", max_recovery_attempts=None)
def _held() -> str:
    _step(1)
    return _hold()


@DBOS.workflow(name="contract.parent", max_recovery_attempts=None)
def _parent(queue: str) -> str:
    handle = DBOS.enqueue_workflow(queue, _held)
    _entered.setdefault(str(DBOS.workflow_id), threading.Event()).set()
    return handle.get_result(polling_interval_sec=0.05)


@DBOS.workflow(name="contract.tick", max_recovery_attempts=None)
def _tick(scheduled_at: datetime, context: Any) -> None:
    pass


@pytest.fixture
def app(database: Database) -> Iterator[Launched]:
    _gates.clear()
    _entered.clear()
    with launched(database, queues=_QUEUES) as made:
        yield made
        _gates.open_all()


def held(app: Launched, workflow_id: str, queue: str = "contract-q") -> threading.Event:
    """A workflow that runs here and stands in its second step until the returned event is set."""
    gate = _gates[workflow_id]
    app.enqueue("contract.held", queue=queue, workflow_id=workflow_id)
    app.waker.wake(queue)
    wait_until(lambda: workflow_id in _entered and _entered[workflow_id].is_set(), f"{workflow_id} runs")
    return gate


# --- the pin --------------------------------------------------------------------------------------


def test_the_pin_is_exact_and_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    stack = project["optional-dependencies"]["stack"]
    assert "dbos==3.4.0" in stack, "pin dbos exactly: its private names are used"
    assert version("dbos") == "3.4.0", "the installed dbos is not the pinned one: reinstall"


def test_the_migrations_are_counted_as_the_database_counts_them(database: Database) -> None:
    look = (
        "look at holdfast/cli/archive.py: a restore tells by this number whether a backup is newer than it; "
        "and at holdfast/dbos_adapter/schema.py: a start waits for it"
    )
    stored = database.one("SELECT max(version) FROM dbos.dbos_migrations")
    assert len(dbos._migration.get_dbos_migrations("dbos", True)) == stored, look
    stored = database.one("SELECT max(version) FROM dbos.dbos_datasource_migrations")
    assert len(dbos._datasource_migration.get_postgres_datasource_migrations("dbos")) == stored, look


def test_every_private_name_in_use_is_known_here() -> None:
    """A new use of a private name needs a row in the table, with its reason and its contract test."""
    ours = defined(source_files())
    used = set().union(*(used_names(file, ours) for file in sorted(ADAPTER.rglob("*.py"))))
    undocumented = {".background_thread_stop_events"}  # no underscore, and no documentation either
    assert used == {row.name for row in PRIVATE_NAMES} - undocumented


# --- SQL that does what DBOS's own recovery does ----------------------------------------------------

_LOOK_AT_SQL = "look at holdfast/recovery/sql/takeover.sql and the triggers in sql/migrations"


def _rows(database: Database, *ids: str) -> list[dict[str, Any]]:
    """Rows without what differs by name or by the clock; the clock's columns become whether they are set."""
    found = []
    for workflow_id in ids:
        row = workflow(database, workflow_id)
        del row["workflow_uuid"]
        for column in ("created_at", "updated_at", "completed_at"):
            row[column] = row[column] is not None and row[column] > 1_600_000_000_000
        found.append(row)
    return found


def _running(database: Database, *ids: str, **columns: Any) -> None:
    insert(
        database,
        ids,
        **{
            "status": "PENDING",
            "executor_id": "worker-dead",
            "deduplication_id": None,
            "updated_at": 1,
            "priority": 3,
            "workflow_deadline_epoch_ms": 9_000_000_000_000,
            "rate_limited": True,
            "parent_workflow_id": "parent",
            **columns,
        },
    )


@pytest.mark.parametrize("queue", ["fibonacci", None], ids=["queued", "direct start"])
@pytest.mark.parametrize(("priority", "kept"), [(3, 3), (0, -1)], ids=["with a priority", "without"])
def test_release_work_is_reenqueue_for_recovery(
    app: Launched, queue: str | None, priority: int, kept: int
) -> None:
    database = app.database
    names = ("ours", "theirs", "ours-of-others", "theirs-of-others")
    # Of another version, or the internal queue would claim what it gets.
    _running(database, *names, queue_name=queue, priority=priority, application_version="worker-0")
    target = queue or "_dbos_internal_queue"
    for workflow_id, executor in (("theirs", "worker-dead"), ("theirs-of-others", "worker-other")):
        app.dbos._sys_db.reenqueue_for_recovery(workflow_id, [executor], "_dbos_internal_queue")
    for workflow_id, executor in (("ours", "worker-dead"), ("ours-of-others", "worker-other")):
        database.run(
            "release_work",
            executor_id=executor,
            workflow_ids=[workflow_id],
            queues=[target],
            waits=[False],
        )
    ours, theirs, untouched_ours, untouched_theirs = _rows(database, *names)
    assert theirs["status"] == "ENQUEUED"
    # Without a priority, what had begun goes to the front of its queue; DBOS leaves it where its age puts it.
    assert ours == {**theirs, "priority": kept}, (
        f"release_work no longer leaves what reenqueue_for_recovery leaves: {_LOOK_AT_SQL}"
    )
    assert untouched_ours == untouched_theirs
    assert untouched_ours["status"] == "PENDING", "release_work moved work of another executor"


@pytest.mark.parametrize("status", ["CANCELLED", "SUCCESS", "ENQUEUED", "DELAYED"])
def test_release_work_moves_only_what_runs(database: Database, status: str) -> None:
    """Its caller has the rows locked; the statement does not rely on it."""
    _running(database, "w", status=status)
    before = workflow(database, "w")
    released = database.run(
        "release_work", executor_id="worker-dead", workflow_ids=["w"], queues=["elsewhere"], waits=[False]
    )
    assert (released, workflow(database, "w")) == ([], before)


def test_park_work_is_dead_letter_workflows(app: Launched) -> None:
    database = app.database
    _running(database, "ours", "theirs", "ours-done", "theirs-done")
    _running(database, "ours-dedup", deduplication_id="a")
    _running(database, "theirs-dedup", deduplication_id="b")
    database.rows("UPDATE dbos.workflow_status SET status = 'SUCCESS' WHERE workflow_uuid LIKE '%-done'")
    app.dbos._sys_db.dead_letter_workflows(["theirs", "theirs-done", "theirs-dedup"], min_recovery_attempts=1)
    database.run("park_work", workflow_ids=["ours", "ours-done", "ours-dedup"], executor_id="worker-dead")
    for kind in ("", "-done", "-dedup"):
        ours, theirs = _rows(database, f"ours{kind}", f"theirs{kind}")
        assert ours == theirs, f"park_work no longer leaves what dead_letter_workflows leaves: {_LOOK_AT_SQL}"
    assert workflow(database, "ours")["status"] == "MAX_RECOVERY_ATTEMPTS_EXCEEDED"


def test_adopt_is_reenqueue_with_another_version(app: Launched) -> None:
    database = app.database
    _running(database, "ours", "theirs", application_version="worker-0")
    app.dbos._sys_db.reenqueue_for_recovery("theirs", ["worker-dead"], "_dbos_internal_queue")
    database.run(
        "adopt",
        application="holdfast-worker",
        workflow_ids=["ours"],
        from_version="worker-0",
        to_version="worker-1",
    )
    ours, theirs = _rows(database, "ours", "theirs")
    assert ours == {**theirs, "application_version": "worker-1"}, f"adopt differs: {_LOOK_AT_SQL}"


@pytest.mark.parametrize(
    "status", ["ENQUEUED", "PENDING", "DELAYED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED", "SUCCESS"]
)
def test_cancel_work_and_resume_work_are_dbos_own(app: Launched, status: str) -> None:
    database = app.database
    # Its deadline is far away: DBOS itself cancels what is past it, and holds the row meanwhile.
    _running(database, "ours", "theirs", status=status, recovery_attempts=3)
    app.client.cancel_workflow("theirs")
    database.run("cancel_work", workflow_ids=["ours"], named=[], own=[])
    ours, theirs = _rows(database, "ours", "theirs")
    assert ours == theirs, f"cancel_work differs: {_LOOK_AT_SQL}"
    app.client.resume_workflows(["theirs"], queue_name="elsewhere")
    database.run("resume_work", root="ours", workflow_ids=["ours"], queues=["elsewhere"], before_ms=2**53)
    ours, theirs = _rows(database, "ours", "theirs")
    assert ours == theirs, f"resume_work differs: {_LOOK_AT_SQL}"


def test_released_work_is_claimed_and_finished_by_dbos_under_its_own_id(app: Launched) -> None:
    """The round trip: our release, DBOS's claim, our trigger on it, DBOS's result."""
    app.queue("contract-q")
    app.enqueue("contract.quick", queue="contract-q", workflow_id="moved")
    app.wait("moved")
    # As if it had been running on an executor that died.
    app.database.rows(
        "UPDATE dbos.workflow_status SET status = 'PENDING', executor_id = 'worker-dead', completed_at = NULL"
        " WHERE workflow_uuid = 'moved'"
    )
    with transaction(app.database.connect()) as connection:
        query(connection, "release_work", executor_id="worker-dead", workflow_ids=["moved"],
              queues=["contract-q"], waits=[False])  # fmt: skip
        query(
            connection,
            "record_handovers",
            workflow_ids=["moved"],
            workflow_names=["contract.quick"],
            executor_id="worker-dead",
            by="me",
            kind="takeover",
            reason="lock lost",
            lost_at=None,
        )
    app.wait("moved")
    row = workflow(app.database, "moved")
    assert row["executor_id"] == app.identity.executor_id
    (handover,) = handovers(app.database, "moved")
    assert handover["to_executor"] == app.identity.executor_id, (
        "DBOS's claim no longer goes ENQUEUED → PENDING with its executor_id: trigger holdfast_claimed"
    )


def test_a_parked_workflow_resumes_by_the_public_call(app: Launched) -> None:
    app.queue("contract-q")
    app.enqueue("contract.quick", queue="contract-elsewhere", workflow_id="parked")
    claim(app.database, "worker-dead", "parked")
    app.database.run("park_work", workflow_ids=["parked"], executor_id="worker-dead")
    app.client.resume_workflows(["parked"], queue_name="contract-q")
    app.wait("parked")


def test_what_our_sql_reads_is_what_dbos_writes(app: Launched) -> None:
    """``unfinished_work`` tells progress by recorded steps; what waits has a row under its claim's token."""
    app.queue("contract-q")
    app.queue("contract-parents")
    app.enqueue("contract.parent", "contract-q", queue="contract-parents", workflow_id="parent")
    app.waker.wake("contract-parents")
    wait_until(lambda: "parent" in _entered and _entered["parent"].is_set(), "the parent waits")
    (child,) = app.database.rows(
        "SELECT workflow_uuid AS id FROM dbos.workflow_status WHERE parent_workflow_id = 'parent'"
    )
    wait_until(lambda: child["id"] in _entered and _entered[child["id"]].is_set(), "its child runs")
    wait_until(lambda: app.database.rows("SELECT * FROM ops.waits"), "the wait is told")
    rows = unfinished(app.database.connect(), app.identity)
    assert set(rows) == {"parent", child["id"]}
    assert (rows["parent"]["waits"], rows[child["id"]]["waits"]) == (True, False)
    assert rows[child["id"]]["queue_name"] == "contract-q"
    assert rows[child["id"]]["steps_recorded"] == 1, "a recorded step is a row of operation_outputs"
    state = app.database.run("children_state", workflow_id="parent")
    assert state == [{"unfinished": 1, "children": 1}]
    _gates[child["id"]].set()
    app.wait("parent")


def test_the_columns_and_statuses_our_sql_names() -> None:
    table = dbos._sys_db.SystemSchema.workflow_status
    columns = {
        "workflow_uuid", "status", "name", "executor_id", "created_at", "updated_at", "application_version",
        "application_name", "recovery_attempts", "queue_name", "started_at_epoch_ms", "deduplication_id",
        "owner_xid", "parent_workflow_id", "completed_at",
    }  # fmt: skip
    missing = columns - set(table.c.keys())
    assert not missing, f"workflow_status has no {missing}: look at holdfast/*/sql"
    statuses = {status.value for status in dbos._sys_db.WorkflowStatusString}
    assert statuses == set(get_args(Status)) == {*UNFINISHED, *TERMINAL}, (
        "a new status: is it terminal? Look at holdfast/statuses.py and the statuses in holdfast/*/sql"
    )


# --- stop events ------------------------------------------------------------------------------------


@pytest.mark.timing
def test_the_stop_events_stop_claims_and_schedules_but_not_what_runs(app: Launched) -> None:
    app.queue("contract-q")
    _schedule()
    ticks = "SELECT count(*) FROM dbos.workflow_status WHERE schedule_name = 'contract'"
    gate = held(app, "runs")
    wait_until(lambda: app.database.one(ticks), "the schedule fires")
    events = app.dbos.background_thread_stop_events
    look = "look at Engine.stop_dequeuing"
    assert len(events) == 3, f"not those of start-up recovery, queue manager and scheduler: {look}"
    assert all(isinstance(event, threading.Event) for event in events), look

    assert any(t.name == "queue-worker-contract-q" for t in threading.enumerate()), look
    begun = time.monotonic()
    app.engine.stop_dequeuing()
    assert time.monotonic() - begun < 1.5
    alive = [t.name for t in threading.enumerate() if t.name.startswith("queue-worker-")]
    assert alive == [], f"queue threads that may still claim: {look}"
    fired = app.database.one(ticks)
    app.enqueue("contract.quick", queue="contract-q", workflow_id="late")
    app.waker.wake_all()
    second = datetime.now(UTC) + timedelta(seconds=2)
    wait_until(lambda: datetime.now(UTC) > second, "two ticks' time passes")
    assert app.status("late") == "ENQUEUED", f"work was claimed after the stop: {look}"
    assert app.database.one(ticks) <= fired + 1, f"the schedule fires on: {look}"
    gate.set()
    app.wait("runs")


def test_a_claim_under_way_at_the_stop_is_over_when_the_stop_returns(
    app: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the drain would hand over everything but that, and exit with work under its id."""
    app.queue("contract-q")
    under_way, go_on = threading.Event(), threading.Event()
    original = app.dbos._sys_db.start_queued_workflows

    def slow(queue: Any, *args: Any, **kwargs: Any) -> Any:
        if queue.name == "contract-q":
            under_way.set()
            go_on.wait(5)
        return original(queue, *args, **kwargs)

    monkeypatch.setattr(app.dbos._sys_db, "start_queued_workflows", slow)
    app.enqueue("contract.held", queue="contract-q", workflow_id="claimed-late")
    app.waker.wake("contract-q")
    assert under_way.wait(20)
    threading.Timer(0.3, go_on.set).start()
    app.engine.stop_dequeuing()
    assert go_on.is_set(), "stop_dequeuing returned while a claim was under way"
    assert app.status("claimed-late") in ("PENDING", "ENQUEUED")
    assert not any(t.name.startswith("queue-worker-") for t in threading.enumerate())


# --- wake-ups ---------------------------------------------------------------------------------------


@pytest.mark.timing
def test_a_wake_up_ends_the_wait_early_and_polling_stays_at_one_second(
    app: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = (
        "look at wake_ups.install: queue_thread starts no queue_worker_thread, or that waits not on its event"
    )
    waits: list[float] = []
    original = wake_ups._WakeEvent.wait

    def wait(self: Any, timeout: float | None = None) -> bool:
        if threading.current_thread().name == "queue-worker-contract-q":
            waits.append(timeout or 0)
        return original(self, timeout)

    monkeypatch.setattr(wake_ups._WakeEvent, "wait", wait)
    app.queue("contract-q", worker_concurrency=1)
    delays = []
    for number in range(10):
        workflow_id = f"rung-{number}"
        app.enqueue("contract.quick", queue="contract-q", workflow_id=workflow_id)
        begun = time.monotonic()
        app.waker.wake("contract-q")
        wait_until(lambda w=workflow_id: app.status(w) != "ENQUEUED", f"{workflow_id} is claimed")
        delays.append(time.monotonic() - begun)
    assert sorted(delays)[5] < 0.25, f"{look}: {delays}"
    # Without a wake-up it is found all the same, by the poll.
    app.enqueue("contract.quick", queue="contract-q", workflow_id="polled")
    app.wait("polled", seconds=3)
    assert waits, look
    assert all(0.95 <= seconds <= 1.05 for seconds in waits), f"polls are not a second apart: {waits}"


def test_a_claim_and_a_rate_limit_keep_a_queue_from_being_quiet(app: Launched) -> None:
    DBOS.register_queue("contract-rated", limiter={"limit": 1, "period": 3600}, polling_interval_sec=0.1)
    app.queue("contract-q", polling=0.1)
    wait_until(lambda: "contract-rated" in app.waker._wake_events, "its thread runs")

    def becomes_active(queue: str) -> None:
        wake_event = app.waker._wake_events[queue]
        wake_event._active_at = long_ago = time.monotonic() - 100
        wait_until(lambda: wake_event._active_at > long_ago, f"{queue} is active")

    for queue in ("contract-rated", "contract-q"):
        app.enqueue("contract.quick", queue=queue, workflow_id=queue)
        app.wait(queue)
    becomes_active("contract-rated")
    quiet = app.waker._wake_events["contract-q"]

    def stays_quiet() -> bool:
        polls, since = quiet.polls, quiet._active_at
        wait_until(lambda: quiet.polls > polls + 1, "it polls")
        return quiet._active_at == since

    wait_until(stays_quiet, "the end of its workflow was its last activity")
    app.enqueue("contract.quick", queue="contract-q", workflow_id="claimed")
    becomes_active("contract-q")


def test_what_waited_before_its_queues_thread_did_is_claimed_at_once(app: Launched) -> None:
    """The first request after a start: its notice came when no thread could be woken."""
    app.enqueue("contract.quick", queue="contract-late", workflow_id="early")
    app.queue("contract-late", polling=60)
    app.wait("early", seconds=5)


def test_the_signature_of_the_queue_thread() -> None:
    assert list(inspect.signature(dbos._queue.queue_worker_thread).parameters) == [
        "stop_event",
        "dbos",
        "queue",
    ], "look at Waker.install"


def test_a_slot_that_becomes_free_wakes_its_queue(app: Launched) -> None:
    """Work that waits only for a place runs at once, not at the next poll."""
    app.queue("contract-q", worker_concurrency=1)
    gate = held(app, "first")
    app.enqueue("contract.quick", queue="contract-q", workflow_id="second")
    assert app.status("second") == "ENQUEUED"
    wake_event = app.waker._wake_events["contract-q"]
    rung = threading.Event()
    original = wake_event.set
    wake_event.set = lambda: (rung.set(), original())[1]  # type: ignore[method-assign]
    gate.set()
    assert rung.wait(20), "look at Slots: DBOS no longer releases its entry"
    app.wait("second")


def test_the_active_set_is_the_one_dbos_uses(app: Launched) -> None:
    look = "look at application.attach_waker and Slots"
    app.queue("contract-q")
    assert app.dbos._active_workflows_set is app.waker.slots, look
    assert app.engine.active() == []
    gate = held(app, "runs")
    assert app.engine.active() == ["runs"], look
    assert app.dbos._active_workflows_set.count_for_queue("contract-q") == 1, look
    gate.set()
    wait_until(lambda: app.engine.active() == [], "the set is empty when the workflow has ended")


def test_the_shape_of_the_active_set() -> None:
    """`Slots` replaces every public method; DBOS calls them so, and releases what `add` returns."""
    look = "look at holdfast/dbos_adapter/slots.py, Slots"
    theirs, ours = dbos._core.ActiveWorkflowById, Slots
    public = {name for name in vars(theirs) if not name.startswith("_")}
    assert public == {"add", "activeList", "count_for_queue", "count_for_partition"}, look
    for name in public:
        expected = list(inspect.signature(getattr(theirs, name)).parameters)
        assert list(inspect.signature(getattr(ours, name)).parameters) == expected, look
        assert name in vars(ours), look
    released = vars(dbos._core.ActiveWorkflowEntry)
    assert {name for name, value in released.items() if callable(value)} == {"__init__", "release"}, look


def test_the_functions_that_execute_a_workflow() -> None:
    look = "look at holdfast/dbos_adapter/slots.py, install"
    for function in (dbos._core._execute_workflow_wthread, dbos._core._execute_workflow_async):
        assert list(inspect.signature(function).parameters)[:4] == ["dbos", "status", "func", "ctx"], look
        assert inspect.getsource(function).count("_active_workflows_set.add(") == 1, look
    starts = inspect.getsource(dbos._core.execute_dequeued_workflow)
    assert "_execute_workflow_wthread" in starts, look
    assert "_execute_workflow_async" in starts, look
    for starter in (dbos._core.start_workflow, dbos._core.start_workflow_async):
        assert "_execute_workflow_" in inspect.getsource(starter), look
    assert "dbos._executor.submit(" in inspect.getsource(dbos._core.start_workflow), "look at count_starts"


def test_the_transactions_that_claim() -> None:
    look = "look at holdfast/dbos_adapter/claims.py"
    kind: Any = dbos._sys_db.SystemDatabase
    one, by_partition = kind.start_queued_workflows, kind.start_queued_partitioned_workflows
    assert inspect.getsource(one).count("self._begin(") == 1, look
    assert inspect.getsource(by_partition).count("self.engine.begin(") == 1, look
    for method in (one, by_partition):
        assert list(inspect.signature(method).parameters)[:2] == ["self", "queue"], look
    assert "isolation_level=isolation" in inspect.getsource(kind._begin), look
    # What counts and what may be claimed, with the suspects of the queue: test_homes.py.
    assert inspect.getsource(one).count("self._queue_pending_filter(queue.name)") == 1, look
    assert inspect.getsource(one).count("self._claim_gate(queue.name, queue_partition_key)") == 1, look
    assert inspect.getsource(by_partition).count("*self._scoped(ws)") == 2, look


# --- traces -------------------------------------------------------------------------------------------


def test_each_claim_returns_its_attempt(app: Launched, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a claim reads it from the row: 1 first, 2 when it is the run after a takeover."""
    noted: list[tuple[str, int | None]] = []
    monkeypatch.setattr(tracing, "note_claim", lambda *claim: noted.append(claim))
    app.queue("contract-q")
    for attempt in (1, 2):
        gate = held(app, "traced")
        assert noted[-1] == ("traced", attempt), "look at dispatch.observe_claim"
        if attempt == 1:
            with transaction(app.database.connect()) as connection:
                query(connection, "release_work", executor_id=app.identity.executor_id,
                      workflow_ids=["traced"], queues=["contract-q"], waits=[False])  # fmt: skip
            _entered.clear()
        gate.set()
    app.wait("traced")


def test_where_dbos_keeps_the_trace_and_what_a_fork_takes_with_it(app: Launched) -> None:
    """An attribute of the row, untouched by our release: it outlives a process, and forks copy it."""
    app.queue("contract-q", worker_concurrency=0)
    attributes = {"dbos.otelContext": {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}}
    assert dbos._context.OTEL_CARRIER_ATTRIBUTE in attributes  # type: ignore[attr-defined]
    app.client.enqueue(
        {
            "queue_name": "contract-q",
            "workflow_name": "contract.quick",
            "workflow_id": "carried",
            "app_version": app.identity.version,
            "attributes": attributes,
        }
    )
    app.database.rows(
        "UPDATE dbos.workflow_status SET status = 'PENDING', executor_id = 'worker-dead'"
        " WHERE workflow_uuid = 'carried'"
    )
    with transaction(app.database.connect()) as connection:
        query(connection, "release_work", executor_id="worker-dead", workflow_ids=["carried"],
              queues=["contract-q"], waits=[False])  # fmt: skip
    forked = app.client.fork_workflow("carried", 1, queue_name="contract-q").workflow_id
    for workflow_id in ("carried", forked):
        assert workflow(app.database, workflow_id)["attributes"] == attributes


# --- retries after an outage --------------------------------------------------------------------------


# Retries: tests/integration/dbos_adapter/test_outages.py.

# --- the schedule -------------------------------------------------------------------------------------


def _schedule() -> None:
    DBOS.apply_schedules(
        [
            {
                "schedule_name": "contract",
                "workflow_fn": _tick,
                "schedule": "* * * * * *",
                "context": None,
                "queue_name": "contract-q",
                "automatic_backfill": False,
            }
        ]
    )


@pytest.mark.parametrize("hours", [1, -1])
def test_a_wrong_clock_schedules_nothing_and_the_right_one_goes_on(
    app: Launched, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """The local clock is an hour off, is put right, and is an hour off again."""
    look = "look at guard_schedule: the scheduler no longer calls dbos._scheduler._enqueue_scheduled_workflow"
    ticks = "SELECT count(*) FROM dbos.workflow_status WHERE schedule_name = 'contract'"
    off = {"by": timedelta(hours=hours)}
    asked: list[datetime] = []

    class Local(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + off["by"]

    def database_now() -> datetime:
        asked.append(datetime.now(UTC))
        return asked[-1]

    def looks(count: int) -> None:
        enough = len(asked) + count
        wait_until(lambda: len(asked) >= enough, look)

    for module in (schedules, dbos._scheduler):
        monkeypatch.setattr(module, "datetime", Local)
    guard_schedule(database_now, early_seconds=2, late_seconds=65)
    app.queue("contract-q")
    _schedule()
    looks(8)
    assert app.database.one(ticks) == 0, look
    off["by"] = timedelta(0)
    # Asleep until the tick of an hour ahead, or an hour behind: it would not go on before that.
    wait_until(lambda: app.database.one(ticks) >= 2, "with the right clock ticks are scheduled")
    off["by"] = timedelta(hours=-hours)
    looks(3)
    before = app.database.one(ticks)
    looks(6)
    assert app.database.one(ticks) == before, look
    times = app.database.rows(
        "SELECT workflow_uuid FROM dbos.workflow_status WHERE schedule_name = 'contract'"
    )
    assert all(r["workflow_uuid"].startswith("sched-contract-20") for r in times), (
        "a tick's id is no longer sched-NAME-TIME: exactly one row a tick rests on it"
    )


@pytest.mark.parametrize(("seconds", "scheduled"), [(-3, 0), (-1, 1), (0, 1), (64, 1), (66, 0)])
def test_guard_schedule_window(monkeypatch: pytest.MonkeyPatch, seconds: float, scheduled: int) -> None:
    """How far a tick may be from the database's clock: 2 s ahead of it, 65 s behind."""
    calls: list[Any] = []
    monkeypatch.setattr(
        dbos._scheduler, "_enqueue_scheduled_workflow", lambda *args, **kwargs: calls.append(args)
    )
    now = datetime.now(UTC)
    guard_schedule(lambda: now, early_seconds=2, late_seconds=65)
    dbos._scheduler._enqueue_scheduled_workflow(
        None, "w", now - timedelta(seconds=seconds), "id", "name", None
    )
    assert len(calls) == scheduled


def test_settle_latest_version_is_set_latest_application_version(app: Launched) -> None:
    sys_db = app.dbos._sys_db
    sys_db.create_application_version("worker-gone")
    sys_db.update_application_version_timestamp("worker-gone", int(time.time() * 1000) + 1000)
    assert DBOS.get_latest_application_version()["version_name"] == "worker-gone"
    before = {row["version_name"]: row for row in DBOS.list_application_versions()}
    (told,) = app.database.run("settle_latest_version", application=app.identity.application, starting=False)
    assert told == {"version": app.identity.version, "before": "worker-gone"}
    assert DBOS.get_latest_application_version()["version_name"] == app.identity.version
    after = {row["version_name"]: row for row in DBOS.list_application_versions()}
    DBOS.set_latest_application_version(app.identity.version)
    dbos_made = {row["version_name"]: row for row in DBOS.list_application_versions()}
    for rows in (after, dbos_made):
        changed = {key for name, row in rows.items() for key in row if row[key] != before[name][key]}  # type: ignore[literal-required]
        assert changed == {"version_timestamp"}


def test_the_signature_of_the_schedules_enqueue() -> None:
    parameters = list(inspect.signature(dbos._scheduler._enqueue_scheduled_workflow).parameters)
    assert parameters[:5] == ["sys_db", "workflow_name", "scheduled_at", "workflow_id", "schedule_name"], (
        "look at guard_schedule"
    )


def test_a_tick_is_stored_as_dbos_stores_it(app: Launched) -> None:
    """Column by column, but for its id, its time and what only a rule brings."""
    app.queue("contract-q")
    _schedule()
    DBOS.pause_schedule("contract")
    first = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=30)
    second = timedelta(seconds=1)
    DBOS.backfill_schedule("contract", first - second, first + second)
    guard_schedule(lambda: datetime.now(UTC), early_seconds=2, late_seconds=65)
    DBOS.backfill_schedule("contract", first, first + 3 * second)
    ids = [tick_id("contract", first + n * second) for n in range(3)]
    for each in ids:
        app.wait(each)
    rows = app.database.rows(
        "SELECT w.*, i.inputs AS stored FROM dbos.workflow_status w JOIN dbos.workflow_input i"
        " USING (workflow_uuid) WHERE w.schedule_name = 'contract' ORDER BY workflow_uuid"
    )
    assert [row["workflow_uuid"] for row in rows] == ids, (
        "look at schedules.Accounting: backfill_schedule's bounds are no longer exclusive"
    )
    theirs, ours = rows[:2]
    assert {name for name in theirs if (theirs[name] is None) != (ours[name] is None)} == set(), (
        "look at ops.fire_tick"
    )
    changed = {name for name in theirs if theirs[name] != ours[name]}
    times = {"created_at", "updated_at", "started_at_epoch_ms", "completed_at"}
    assert changed - times == {"workflow_uuid", "stored"}, "look at ops.fire_tick"
    assert ours["stored"] == theirs["stored"].replace(f"{first:%H:%M:%S}", f"{first + second:%H:%M:%S}")


def test_a_schedule_is_known_by_the_registry_of_workflows(app: Launched) -> None:
    assert schedules.workflow_function("contract.tick"), "look at schedules.workflow_function"
    assert schedules.workflow_function("contract.gone") is None


# --- trials -------------------------------------------------------------------------------------------

_LOOK_AT_TRIALS = "look at holdfast/recovery/trials.py"


def test_every_claim_of_a_queue_starts_through_one_function(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the thread of its queue, with the row's queue, and what is not started here stays claimed."""
    original = dbos._queue.execute_dequeued_workflow
    assert list(inspect.signature(original).parameters) == ["dbos", "status", "owner_xid"], _LOOK_AT_TRIALS
    seen: list[tuple[str, str]] = []

    def execute(instance: Any, status: Any, owner_xid: str) -> Any:
        seen.append((threading.current_thread().name, status["queue_name"]))
        return None if status["workflow_uuid"] == "held" else original(instance, status, owner_xid)

    monkeypatch.setattr(dbos._queue, "execute_dequeued_workflow", execute)
    with launched(database, queues=_QUEUES) as app:
        for workflow_id in ("held", "started"):
            app.enqueue("contract.quick", queue="contract-q", workflow_id=workflow_id)
        app.wait("started")
        wait_until(lambda: len(seen) == 2, _LOOK_AT_TRIALS)
        assert set(seen) == {("queue-worker-contract-q", "contract-q")}, _LOOK_AT_TRIALS
        assert app.status("held") == "PENDING"


# --- fencing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("claimed", [False, True], ids=["released", "claimed by a peer"])
def test_a_zombies_checkpoint_bounces(app: Launched, claimed: bool) -> None:
    """All of recovery rests on it: after a takeover the old execution can record nothing."""
    app.queue("contract-q")
    gate = held(app, "fenced")
    peer = Peer.start(app.database, "worker-peer")
    app.database.rows("UPDATE dbos.queues SET worker_concurrency = 0")  # or we would claim it ourselves
    app.peer.silent()
    # Its own sessions must not be cut here: the zombie is to arrive at DBOS's check.
    with transaction(app.database.connect()) as connection:
        query(connection, "release_work", executor_id=app.identity.executor_id, workflow_ids=["fenced"],
              queues=["elsewhere"], waits=[False])  # fmt: skip
    if claimed:
        claim(app.database, peer.id, "fenced")
    before = workflow(app.database, "fenced")
    gate.set()
    wait_until(lambda: app.engine.active() == [], "the zombie stops running it")
    steps = app.database.rows(
        "SELECT function_name FROM dbos.operation_outputs WHERE workflow_uuid = 'fenced' ORDER BY function_id"
    )
    assert [s["function_name"] for s in steps] == ["contract.step"], (
        "a zombie recorded a step after the takeover: DBOS no longer checks owner_xid, fencing is gone"
    )
    assert workflow(app.database, "fenced") == before, "a zombie changed the workflow after the takeover"


def test_startup_recovers_only_its_own_id(database: Database) -> None:
    """DBOS's own recovery must not compete: ids are never used twice, so it finds nothing."""
    insert(database, ["of-another"], status="PENDING", executor_id="worker-alive", name="contract.quick")
    with launched(database, queues=_QUEUES) as app:
        app.queue("contract-q")
        app.enqueue("contract.quick", queue="contract-q", workflow_id="mine")
        app.wait("mine")
        assert workflow(database, "of-another")["status"] == "PENDING"


def test_workflows_have_no_recovery_limit_of_dbos() -> None:
    """DBOS counts every dispatch; crashes are counted by us. (``max_recovery_attempts=None``)"""
    from holdfast.durable import registry, workflows
    from services.api.nesting import workflows as nesting
    from services.api.scope import workflows as scope
    from services.api.users import workflows as users

    sources = [inspect.getsource(module) for module in (nesting, scope, users)]
    decorated = sum(len(re.findall(r"@DBOS\.workflow\(", source)) for source in sources)
    without = sum(len(re.findall(r"@DBOS\.workflow\([^)]*max_recovery_attempts=None\)", s)) for s in sources)
    by_dbos = [name for name in names.QUEUE_OF if isinstance(registry.declared_by_name(name), DbosWorkflow)]
    assert decorated == without == len(by_dbos)
    # Holdfast's own decorator makes all others.
    assert "DBOS.workflow(name=name, max_recovery_attempts=None" in inspect.getsource(workflows)


# --- retention --------------------------------------------------------------------------------------


def test_every_end_is_stamped(app: Launched) -> None:
    """A purge reads ages from ``completed_at``: what has none is never deleted."""
    app.queue("contract-q")
    app.enqueue("contract.quick", queue="contract-q", workflow_id="success")
    app.wait("success")
    app.enqueue("contract.fails", queue="contract-q", workflow_id="error")
    app.wait("error", "ERROR")
    insert(app.database, ["cancelled"], status="ENQUEUED", queue_name="nobody's")
    app.client.cancel_workflow("cancelled")
    ended = {w: workflow(app.database, w) for w in ("success", "error", "cancelled")}
    assert [row["status"] for row in ended.values()] == ["SUCCESS", "ERROR", "CANCELLED"]
    assert all(abs(row["completed_at"] - time.time() * 1000) < 60_000 for row in ended.values())
    app.client.resume_workflow("cancelled", queue_name="nobody's")
    assert workflow(app.database, "cancelled")["completed_at"] is None, "it is unfinished again"


def test_the_function_that_deletes_is_dbos_own_call(app: Launched) -> None:
    """Each leaves the other's rows and the children's, and nothing of its own in any table."""
    database, deleted = app.database, {"ours", "theirs"}
    insert(database, ["ours", "theirs", "other"], status="SUCCESS")
    for parent in deleted:
        insert(database, [f"{parent}-child"], status="SUCCESS", parent_workflow_id=parent)
    for workflow_id in ("ours", "theirs", "other"):
        everything(database, workflow_id)
    before = references(database)
    database.run("purge_work", workflow_ids=["ours", "unknown"])
    after = references(database)
    app.client.delete_workflows(["theirs", "unknown"])
    left = references(database)
    for table, ids in before.items():
        assert ids - after[table] in (set(), {"ours"}), table
        assert {{"theirs": "ours"}.get(each) for each in after[table] - left[table]} == ids - after[table], (
            f"{table}: delete_ended differs: {_LOOK_AT_SQL}"
        )
    assert left["dbos.workflow_status"] == {"ours-child", "theirs-child", "other"}


def test_a_schedules_work_belongs_to_no_parent(app: Launched) -> None:
    """So nothing keeps a tick from going."""
    app.queue("contract-q")
    _schedule()
    try:
        handle = app.client.trigger_schedule("contract")
        app.wait(handle.workflow_id)
    finally:
        DBOS.pause_schedule("contract")
    row = workflow(app.database, handle.workflow_id)
    assert (row["parent_workflow_id"], row["schedule_name"]) == (None, "contract")


# --- messages, events, streams --------------------------------------------------------------------------

_LOOK_AT_NOTICES = (
    "look at holdfast/dbos_adapter/waiting/notices.py, sql/messages.sql and holdfast/api/streams.py"
)


def test_who_waits_is_known_by_what_notifications_say(app: Launched) -> None:
    from dbos._sys_db import LoopAwareEvent

    sys_db = app.dbos._sys_db
    app.waker.notices.heard(notices.CHANNELS[0], "nobody waits for it")
    maps = (sys_db.notifications_map, sys_db.workflow_events_map, sys_db.streams_map)
    for channel, waiting in zip(notices.CHANNELS, maps, strict=True):
        event = LoopAwareEvent()
        payload, components = sys_db._waiter("w", "key")
        waiting.add(payload, event, components)
        ((known, where, _),) = waiting.snapshot()
        assert known == notices.stream_name("w", "key"), _LOOK_AT_NOTICES
        assert where[:2] == ("w", "key"), _LOOK_AT_NOTICES
        app.waker.notices.heard(channel, payload)
        assert event.is_set(), _LOOK_AT_NOTICES
        waiting.pop(payload, event)


def test_a_closed_stream_ends_with_the_mark_that_we_know() -> None:
    assert dbos._sys_db._serialized_stream_closed_sentinel == CLOSED, _LOOK_AT_NOTICES
    assert dbos._sys_db.is_serialized_stream_closed_sentinel(CLOSED, "portable_json"), _LOOK_AT_NOTICES
