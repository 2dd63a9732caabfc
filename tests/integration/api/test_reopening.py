"""A parent that failed with its child goes on by one call, once the child is mended, and repeats nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from dbos import DBOS, SetWorkflowID, SQLAlchemyDatasource, WorkflowHandle

from holdfast.dbos_adapter.schema import sqlalchemy_url
from holdfast.dbos_adapter.serializer import json_serializer
from holdfast.dbos_adapter.wake_ups import Listener
from holdfast.durable import names
from tests.support.api_server import Api, serving
from tests.support.database import Database, wait_until
from tests.support.engines import Launched, launched

QUEUE = "reopening-q"
NAMES = (
    "reopening.parent",
    "reopening.gatherer",
    "reopening.careful",
    "reopening.child",
    "reopening.transaction",
)

effects: Counter[str] = Counter()
cured: set[str] = set()
transactions: list[Callable[[str], str]] = []


@DBOS.step(name="reopening.effect")
def _effect(what: str) -> str:
    effects[what] += 1
    return what


def _try(what: str) -> str:
    effects[f"try {what}"] += 1
    if what not in cured:
        raise ValueError(what)
    return what


_step = DBOS.step(name="reopening.step")(_try)


@DBOS.workflow(name="reopening.child", max_recovery_attempts=None)
def _child() -> str:
    me = str(DBOS.workflow_id)
    if me.endswith("waits"):
        DBOS.recv("go", 60)
        return me
    return _step(me)


def _start(name: str) -> WorkflowHandle[str]:
    with SetWorkflowID(f"{DBOS.workflow_id}-{name}"):
        return DBOS.enqueue_workflow(QUEUE, _child)


@DBOS.workflow(name="reopening.parent", max_recovery_attempts=None)
def _parent(child: str) -> str:
    _effect(f"{DBOS.workflow_id} before")
    result = _start(child).get_result(polling_interval_sec=0.05)
    return _effect(f"{DBOS.workflow_id} after {result}")


@DBOS.workflow(name="reopening.transaction", max_recovery_attempts=None)
def _in_transaction() -> str:
    return transactions[0](str(DBOS.workflow_id))


@DBOS.workflow(name="reopening.gatherer", max_recovery_attempts=None)
def _gatherer() -> list[str]:
    handles = [_start(name) for name in ("a", "b", "c")]
    results, errors = [], []
    for handle in handles:
        try:
            results.append(str(handle.get_result(polling_interval_sec=0.05)))
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return results


@DBOS.workflow(name="reopening.careful", max_recovery_attempts=None)
def _careful() -> str:
    try:
        return str(_start("child").get_result(polling_interval_sec=0.05))
    except Exception:
        _effect(f"{DBOS.workflow_id} refund")
        raise


@pytest.fixture
def app(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launched]:
    monkeypatch.setattr(names, "PLAIN", {*names.PLAIN, *NAMES})
    effects.clear()
    cured.clear()
    used: list[SQLAlchemyDatasource] = []

    def prepare() -> None:
        url = sqlalchemy_url(database.settings().database_url)
        used.append(SQLAlchemyDatasource.create(url, serializer=json_serializer()))
        transactions[:] = [used[0].transaction(name="reopening.transaction")(_try)]

    with launched(database, queues=[QUEUE], prepare=prepare) as made:
        # It hears of cancels, so that a resume need not wait long for the end of the old execution.
        listener = Listener(database.settings(), made.waker, purpose="holdfast/worker-test/listener")
        listener.start()
        yield made
        listener.stop()
    used[0].engine.dispose()


@pytest.fixture
def api(app: Launched) -> Iterator[Api]:
    with serving(app.database.settings("api")) as made:
        yield made


def reopen(api: Api, workflow_id: str) -> tuple[int, str]:
    answer = api.http.post(f"/workflows/{workflow_id}/reopen")
    return answer.status_code, answer.json().get("detail", "")


def test_a_parent_goes_on_after_its_failed_child_was_reopened(app: Launched, api: Api) -> None:
    app.enqueue("reopening.parent", "child", queue=QUEUE, workflow_id="p")
    app.wait("p", "ERROR")
    status, why = reopen(api, "p")
    assert (status, "p-child is ERROR" in why) == (409, True)
    cured.add("p-child")
    assert reopen(api, "p-child")[0] == 202
    app.wait("p-child")
    with ThreadPoolExecutor(4) as threads:
        statuses = sorted(status for status, _ in threads.map(lambda _: reopen(api, "p"), range(4)))
    assert statuses == [202, 409, 409, 409]
    app.wait("p")
    assert api.http.get("/workflows/p").json()["output"] == "p after p-child"
    assert effects == {"p before": 1, "try p-child": 2, "p after p-child": 1}
    assert reopen(api, "p")[0] == 409, "it has succeeded"


@pytest.mark.parametrize("status", ["CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"])
def test_a_parent_goes_on_after_its_cancelled_or_parked_child_was_resumed(
    app: Launched, api: Api, status: str
) -> None:
    app.enqueue("reopening.parent", "waits", queue=QUEUE, workflow_id="p")
    wait_until(
        lambda: api.http.get("/workflows?prefix=p-waits&status=PENDING").json()["workflows"], "it runs"
    )
    app.database.rows(
        "UPDATE dbos.workflow_status SET status = %(status)s, owner_xid = NULL"
        " WHERE workflow_uuid = 'p-waits'",
        status=status,
    )
    app.wait("p", "ERROR")
    assert "p-waits is" in reopen(api, "p")[1]
    assert api.http.post("/workflows/p-waits/resume").status_code == 202
    assert "p-waits is" in reopen(api, "p")[1], "it runs again, and has not succeeded yet"
    api.http.post("/workflows/p-waits/messages", json={"message": 1, "topic": "go"}).raise_for_status()
    app.wait("p-waits")
    assert reopen(api, "p") == (202, "")
    app.wait("p")
    assert effects == {"p before": 1, "p after p-waits": 1}


def test_every_failed_result_is_read_again_and_all_children_must_be_mended(app: Launched, api: Api) -> None:
    cured.add("g-b")
    app.enqueue("reopening.gatherer", queue=QUEUE, workflow_id="g")
    app.wait("g", "ERROR")
    for child in ("g-a", "g-c"):
        assert child in reopen(api, "g")[1]
        cured.add(child)
        assert reopen(api, child)[0] == 202
        app.wait(child)
    assert reopen(api, "g")[0] == 202
    app.wait("g")
    assert api.http.get("/workflows/g").json()["output"] == ["g-a", "g-b", "g-c"]


def test_a_transaction_that_failed_is_done_again(app: Launched, api: Api) -> None:
    app.enqueue("reopening.transaction", queue=QUEUE, workflow_id="t")
    app.wait("t", "ERROR")
    # As it is left where another process replayed the failure: that one did not use the datasource.
    app.database.rows(
        "INSERT INTO dbos.datasource_outputs (workflow_id, step_id, error, serialization)"
        " SELECT workflow_uuid, function_id, error, serialization FROM dbos.operation_outputs"
        " WHERE error IS NOT NULL"
    )
    cured.add("t")
    assert reopen(api, "t")[0] == 202
    app.wait("t")
    assert effects["try t"] == 2


def test_a_parent_that_has_acted_on_the_failure_is_refused(app: Launched, api: Api) -> None:
    app.enqueue("reopening.careful", queue=QUEUE, workflow_id="c")
    app.wait("c", "ERROR")
    cured.add("c-child")
    assert reopen(api, "c-child")[0] == 202
    app.wait("c-child")
    status, why = reopen(api, "c")
    assert (status, "Fork it from that step" in why) == (409, True)
    assert effects["c refund"] == 1
