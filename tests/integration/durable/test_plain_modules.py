"""A worker with a plain DBOS module beside a typed one, and an API that starts both by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.api_server import Api, serving
from tests.support.database import Database, wait_until
from tests.support.engines import worker_process
from tests.support.own import forgotten

PLAIN = """
from datetime import datetime
from dbos import DBOS

TICKS = []


@DBOS.step(name="p.step")
def step(text):
    return text * 2


@DBOS.workflow(name="p.child")
def child(text):
    return step(text)


@DBOS.workflow(name="p.parent")
def parent(text, *, times=1):
    handles = [DBOS.enqueue_workflow("p-queue", child, text) for _ in range(times)]
    return {"by": DBOS.workflow_id, "found": [handle.get_result() for handle in handles]}


@DBOS.workflow(name="p.waits")
def waits():
    return DBOS.recv("go", 60)


@DBOS.workflow(name="p.tick")
def tick(at: datetime, context):
    TICKS.append(at)


def setup():
    DBOS.register_queue("p-queue", worker_concurrency=2, on_conflict="always_update")
    DBOS.apply_schedules([{
        "schedule_name": "p-tick", "workflow_fn": tick, "schedule": "* * * * * *", "context": None,
    }])
"""
TYPED = """
from holdfast import Queue, Schedule, register, workflow
from p_plain import tick

@workflow("p.typed")
def typed(n: int, word: str = "x") -> str:
    return n * word

# Its queue is registered by setup() of the other module.
register(Queue("p-typed", [typed]), schedules=[Schedule("p-yearly", tick, "0 0 0 1 1 *", queue="p-queue")])
"""


@pytest.fixture
def api(server: Any, tmp_path: Path) -> Iterator[Api]:
    folder = tmp_path
    (folder / "p_plain.py").write_text(PLAIN, "utf-8")
    (folder / "p_typed.py").write_text(TYPED, "utf-8")
    sys.path.insert(0, str(folder))
    try:
        with (
            forgotten(),
            Database.lent(server) as database,
            worker_process(database, modules="p_plain, p_typed") as process,
            serving(database.settings("api", modules="p_plain, p_typed")) as made,
        ):
            wait_until(lambda: "p-queue" in process.waker._wake_events, "the queue's thread runs")
            yield made
    finally:
        sys.path.remove(str(folder))
        for name in ("p_plain", "p_typed"):
            sys.modules.pop(name, None)


def started(api: Api, **body: Any) -> dict[str, Any]:
    answer = api.http.post("/workflows", json={**body, "wait": True})
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


def test_a_worker_runs_a_plain_module_beside_a_typed_one(api: Api) -> None:
    ended = started(api, workflow="p.parent", args=["ab"], kwargs={"times": 2})
    assert ended["report"] == {"by": ended["workflow_id"], "found": ["abab", "abab"]}
    assert started(api, workflow="p.typed", arguments={"n": 3})["report"] == "xxx"
    on_queue = started(api, workflow="p.child", args=["z"], queue="p-queue")
    assert on_queue["report"] == "zz"
    shown = api.http.get(f"/workflows/{on_queue['workflow_id']}").json()
    assert (shown["application"], shown["queue_name"]) == ("holdfast-worker", "p-queue")
    assert wait_until(lambda: sys.modules["p_plain"].TICKS, "its schedule fires")
    listed = api.http.get("/schedules").json()["schedules"]
    assert "p-tick" in {schedule["name"] for schedule in listed}
    answer = api.http.post("/workflows", json={"workflow": "p.gone"})
    assert (answer.status_code, answer.json()["field"]) == (422, "workflow")
    assert "Registered: " in answer.json()["detail"], "at most 50: this process may have more of other tests"


def test_an_operator_can_act_on_its_workflows(api: Api) -> None:
    answer = api.http.post("/workflows", json={"workflow": "p.waits", "queue": "p-queue"})
    workflow_id = answer.json()["workflow_id"]
    assert api.http.post(f"/workflows/{workflow_id}/cancel").status_code == 200
    assert api.http.post(f"/workflows/{workflow_id}/resume").status_code == 202
    api.http.post(f"/workflows/{workflow_id}/messages", json={"topic": "go", "message": 7})
    row = api.http.get(f"/workflows/{workflow_id}?wait=20").json()
    assert (row["status"], row["output"], row["queue_name"]) == ("SUCCESS", 7, "p-queue")
    forked = api.http.post(f"/workflows/{workflow_id}/fork", json={"start_step": 1})
    assert forked.status_code == 202, forked.text
    api.http.post(f"/workflows/{forked.json()['workflow_id']}/cancel")
