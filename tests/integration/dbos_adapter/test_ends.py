"""Executions are counted by the status that is stored when they have ended, and so is every stored end."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import psycopg
import psycopg2
import pytest
import sqlalchemy as sa
from dbos import DBOS, SetWorkflowID
from prometheus_client import REGISTRY

from holdfast import step, workflow
from holdfast.statuses import TERMINAL
from tests.support.database import Database, wait_until
from tests.support.engines import Gates, Launched, launched

PARENTS, CHILDREN = "ends-parents", "ends-children"
GATES = Gates()
STANDING: set[str] = set()

Counts = Counter[tuple[str, str]]


@DBOS.step(name="ends.stands")
def _stand(workflow_id: str) -> None:
    STANDING.add(workflow_id)
    GATES[workflow_id].wait()


@DBOS.step(name="ends.next")
def _next() -> None:
    pass


def _body(kind: str) -> Any:
    workflow_id = str(DBOS.workflow_id)
    if kind == "fails":
        raise ValueError(kind)
    if kind == "sleeps":
        DBOS.sleep(600)
    if kind == "stands":
        _stand(workflow_id)
        _next()
    if kind == "ignores its cancel":
        STANDING.add(workflow_id)
        GATES[workflow_id].wait()
    return object() if kind == "cannot be stored" else 1


@DBOS.workflow(name="ends.sync", max_recovery_attempts=None)
def _sync(kind: str) -> Any:
    return _body(kind)


@DBOS.workflow(name="ends.async", max_recovery_attempts=None)
async def _async(kind: str) -> Any:
    if kind == "cancels itself":
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(30)
    if kind == "sleeps":
        await DBOS.sleep_async(600)
    return await asyncio.to_thread(_body, kind)


@DBOS.workflow(name="ends.parent", max_recovery_attempts=None)
def _parent(kind: str, *, calls: bool) -> Any:
    with SetWorkflowID(f"{DBOS.workflow_id}-child"):
        if calls:
            return _sync(kind)
        handle = DBOS.enqueue_workflow(CHILDREN, _sync, kind)
    return handle.get_result()


@DBOS.workflow(name="ends.async_parent", max_recovery_attempts=None)
async def _async_parent(kind: str) -> Any:
    with SetWorkflowID(f"{DBOS.workflow_id}-child"):
        return await _async(kind)


@step("ends.typed_step")
def _typed_step() -> None:
    raise SystemExit(3)


@workflow("ends.typed")
def _typed() -> None:
    _typed_step()


@pytest.fixture
def app(database: Database) -> Iterator[Launched]:
    STANDING.clear()
    GATES.clear()
    with launched(database, queues=[PARENTS, CHILDREN]) as made:
        try:
            yield made
        finally:
            GATES.open_all()


def counted() -> Counts:
    """What this process has counted, as far as it is not zero."""
    return Counter(
        {
            (sample.labels["workflow_name"], sample.labels["status"]): int(sample.value)
            for family in REGISTRY.collect()
            if family.name == "holdfast_workflows_completed"
            for sample in family.samples
            if sample.name.endswith("_total") and sample.labels["workflow_name"].startswith("ends.")
        }
    )


def ended(database: Database) -> Counts:
    """What the database has counted."""
    rows = database.run("ended", statuses=list(TERMINAL))
    return Counter({(r["workflow_name"], r["status"]): int(r["workflows"]) for r in rows if r["workflows"]})


def stored(database: Database) -> Counts:
    rows = database.rows("SELECT name, status, count(*) AS n FROM dbos.workflow_status GROUP BY 1, 2")
    return Counter({(row["name"], row["status"]): row["n"] for row in rows})


def test_an_execution_counts_as_its_row_says(app: Launched) -> None:
    before = counted()
    plain = ("succeeds", "fails", "cannot be stored")
    cancelled = ("sleeps", "stands", "ignores its cancel")
    ways = ("sync", "async")
    for way, kind in product(ways, plain):
        app.enqueue(f"ends.{way}", kind, queue=PARENTS, workflow_id=f"{way} {kind}")
    app.enqueue("ends.async", "cancels itself", queue=PARENTS, workflow_id="itself")
    app.enqueue("ends.typed", queue=PARENTS, workflow_id="typed")
    for way, kind in product(ways, cancelled):
        workflow_id = f"{way} {kind}"
        app.enqueue(f"ends.{way}", kind, queue=PARENTS, workflow_id=workflow_id)
        running(app, workflow_id)
        cancel(app, workflow_id)
        GATES[workflow_id].set()
    for calls in (True, False):
        for kind in plain:
            workflow_id = f"parent {kind} {calls}"
            with SetWorkflowID(workflow_id):
                DBOS.start_workflow(_parent, kind, calls=calls)
            app.wait(workflow_id, "SUCCESS" if kind == "succeeds" else "ERROR")
    for kind in ("succeeds", "fails", "cancels itself"):
        with SetWorkflowID(f"async parent {kind}"):
            asyncio.run(_ended(_async_parent, kind))
    for kind in ("succeeds", "fails", "cancels itself"):  # a coroutine that a thread waits for
        with SetWorkflowID(f"thread {kind}"):
            DBOS.start_workflow(_async, kind)  # type: ignore[arg-type]
        app.wait(f"thread {kind}", "SUCCESS" if kind == "succeeds" else "ERROR")
    with SetWorkflowID("the parent of a cancelled one"):
        DBOS.start_workflow(_parent, "sleeps", calls=False)
    running(app, "the parent of a cancelled one-child")
    cancel(app, "the parent of a cancelled one-child")
    app.wait("the parent of a cancelled one", "ERROR")

    wait_until(lambda: counted() - before == stored(app.database), "each is counted as it is stored")
    assert ended(app.database) == stored(app.database)
    assert {status for _, status in stored(app.database)} == {"SUCCESS", "ERROR", "CANCELLED"}


async def _ended(call: Callable[[str], Any], kind: str) -> None:
    await asyncio.gather(call(kind), return_exceptions=True)


def cancel(app: Launched, workflow_id: str) -> None:
    """Cancels a workflow, and does what the listener does at its notice."""
    app.client.cancel_workflow(workflow_id)
    app.waker.cancellations.check(app.database.connect(), now=True)


def running(app: Launched, workflow_id: str) -> None:
    """Waits until the code of the workflow runs, and for its wait if it has one."""
    if "sleeps" in workflow_id or "child" in workflow_id:
        steps = "SELECT FROM dbos.operation_outputs WHERE workflow_uuid = %(id)s"
        wait_until(lambda: app.database.one(f"SELECT EXISTS ({steps})", id=workflow_id), "it sleeps")
    else:
        wait_until(lambda: workflow_id in STANDING, f"{workflow_id} runs")


def test_an_execution_whose_workflow_went_on_elsewhere_has_no_outcome(app: Launched) -> None:
    before = counted()
    app.enqueue("ends.sync", "stands", queue=PARENTS, workflow_id="moved")
    running(app, "moved")
    app.database.rows(
        "UPDATE dbos.workflow_status SET executor_id = 'another', owner_xid = 'its own'"
        " WHERE workflow_uuid = 'moved'"
    )
    GATES["moved"].set()
    wait_until(lambda: counted() - before == {("ends.sync", "LEFT"): 1}, "it left")
    assert ended(app.database) == {}


def test_a_stored_end_counts_although_its_answer_was_lost(
    app: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement is repeated after an outage, and then changes no row."""
    before = counted()
    sessions = app.dbos._sys_db.sessions
    run, lost = sessions.run, threading.Event()

    def lose_the_first_answer(name: str, **parameters: Any) -> Any:
        rows = run(name, **parameters)
        if name == "end_workflow" and not lost.is_set():
            lost.set()
            error = psycopg.OperationalError("server closed the connection unexpectedly")
            raise sa.exc.DBAPIError.instance(name, None, error, psycopg.Error, connection_invalidated=True)
        return rows

    monkeypatch.setattr(sessions, "run", lose_the_first_answer)
    app.enqueue("ends.sync", "fails", queue=PARENTS, workflow_id="unanswered")
    wait_until(lambda: counted() - before == {("ends.sync", "ERROR"): 1}, "it is counted")
    assert lost.is_set()
    assert ended(app.database) == {("ends.sync", "ERROR"): 1}


# --- the database's counter ---------------------------------------------------------------------------


def test_every_stored_end_is_counted_and_never_uncounted(database: Database) -> None:
    """Parked by DBOS itself, cancelled before it ran, resumed, deleted: and the sums change no count."""
    database.rows(
        "INSERT INTO dbos.workflow_status (workflow_uuid, name, status)"
        " SELECT 'w-' || i, 'ends.' || i % 1500, 'PENDING' FROM generate_series(1, 6000) AS i"
    )
    for status in ("MAX_RECOVERY_ATTEMPTS_EXCEEDED", "ENQUEUED", "CANCELLED", "PENDING", "SUCCESS"):
        database.rows(f"UPDATE dbos.workflow_status SET status = '{status}'")
    by_status = {"MAX_RECOVERY_ATTEMPTS_EXCEEDED": 6000, "CANCELLED": 6000, "SUCCESS": 6000}
    database.rows("DELETE FROM dbos.workflow_status")

    def sums() -> Counts:
        totals: Counts = Counter()
        for (_, status), number in ended(database).items():
            totals[status] += number  # type: ignore[index]
        return totals

    before = ended(database)
    names = {name for name, _ in before}
    assert len(names) == 1001 and "" in names, "the number of labels has a limit"
    assert sums() == by_status
    other = database.connect(role="api")
    other.autocommit = False
    other.cursor().execute("SELECT ops.fold_ended()")
    assert database.run("fold_ended") == [{"more": False}], "another executor does it"
    assert sums() == by_status
    other.commit()
    # Later names push none out whose counter was read, however often they end.
    database.rows("INSERT INTO ops.ended SELECT 'aaa ' || i % 9, 'SUCCESS' FROM generate_series(1, 90) AS i")
    folds = 1
    while database.run("fold_ended")[0]["more"]:
        folds += 1
        assert folds < 9
    assert ended(database) == before + Counter({("", "SUCCESS"): 90})
    assert folds > 1 and database.one("SELECT count(*) FROM ops.ended") <= 5000
    for role in ("api", "worker"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            database.connect(role=role).cursor().execute("DELETE FROM ops.ended")
