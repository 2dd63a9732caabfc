"""The API beside a third application: plain DBOS with its default serializer, in a process of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import psycopg2
import pytest

from holdfast.dbos_adapter.schema import sqlalchemy_url
from tests.support import names
from tests.support.api_server import Api, serving
from tests.support.database import Database, wait_until
from tests.support.executors import Peer, insert, workflow
from tests.support.plain_shop import QUEUE, Shop, open_shop

AS_PICKLE = re.compile(r"stored as pickle, readable only by the application \([\d,]+ bytes\)")


@pytest.fixture
def api(database: Database) -> Iterator[Api]:
    with serving(database.settings("api")) as made:
        yield made


@pytest.fixture
def shop(database: Database) -> Iterator[Shop]:
    with open_shop(sqlalchemy_url(database.settings("worker").database_url), "shop") as made:
        yield made


def ended(api: Api, workflow_id: str) -> dict[str, Any]:
    row: dict[str, Any] = api.http.get(f"/workflows/{workflow_id}?wait=20").json()
    return row


def stored_bytes(database: Database, workflow_id: str) -> tuple[str, str]:
    """Returns the stored input and its format."""
    [row] = database.rows(
        "SELECT i.inputs, w.serialization FROM dbos.workflow_status w JOIN dbos.workflow_input i"
        " USING (workflow_uuid) WHERE w.workflow_uuid = %(id)s",
        id=workflow_id,
    )
    return row["inputs"], row["serialization"]


def waits_for_payment(api: Api, workflow_id: str) -> Any:
    return wait_until(
        lambda: api.http.get(f"/workflows/{workflow_id}/events").json()["events"], "it waits for the payment"
    )


def test_the_listing_shows_all_applications_and_filters_by_them(
    api: Api, database: Database, shop: Shop
) -> None:
    insert(database, ["ours"])
    theirs = shop.order("refuse", "theirs", "tea")
    assert ended(api, theirs)["status"] == "ERROR"

    def listed(query: str = "") -> set[str]:
        return {row["workflow_id"] for row in api.http.get(f"/workflows{query}").json()["workflows"]}

    assert listed() >= {"ours", theirs}
    assert listed("?application=shop") == {theirs}
    assert listed("?application=holdfast-worker") == {"ours"}
    assert listed("?application=holdfast-worker&application=shop") == {"ours", theirs}
    assert listed("?application=nobody") == set()


def test_pickled_values_are_never_loaded_and_said_to_be_pickles(api: Api, shop: Shop) -> None:
    """Input, step, event, result and error."""
    shop.order("checkout", "w", "tea")
    [event] = waits_for_payment(api, "w")
    assert AS_PICKLE.fullmatch(event["value"]) and event["format"] == "py_pickle"
    sent = api.http.post("/workflows/w/messages", json={"topic": "payment", "message": {"euro": 7}})
    assert sent.status_code == 202
    row = ended(api, "w")
    assert row["status"] == "SUCCESS", "the application reads the message, which is JSON"
    assert AS_PICKLE.fullmatch(row["input"]) and AS_PICKLE.fullmatch(row["output"])
    assert row["error"] is None
    steps = api.http.get("/workflows/w/steps").json()["steps"]
    by_name = {step["name"]: step for step in steps}
    assert AS_PICKLE.fullmatch(by_name["shop.reserve"]["output"])
    assert all(step["error"] is None for step in steps)
    shop.order("refuse", "bad", "tea")
    row = ended(api, "bad")
    assert row["status"] == "ERROR" and AS_PICKLE.fullmatch(row["error"]) and row["output"] is None


def test_cancel_and_resume_keep_queue_and_input(api: Api, database: Database, shop: Shop) -> None:
    shop.order("queued-checkout", "w", "tea")
    waits_for_payment(api, "w")
    before = stored_bytes(database, "w")
    assert before[1] == "py_pickle"
    assert api.http.post("/workflows/w/cancel").json()["status"] == "CANCELLED"
    assert api.http.get("/workflows/w").json()["queue_name"] is None, "DBOS erases it at a cancel"
    answer = api.http.post("/workflows/w/resume")
    assert answer.status_code == 202, answer.text
    assert api.http.get("/workflows/w").json()["queue_name"] == QUEUE
    api.http.post("/workflows/w/messages", json={"topic": "payment", "message": 1})
    assert ended(api, "w")["status"] == "SUCCESS"
    assert stored_bytes(database, "w") == before


def test_a_workflow_keeps_its_queue_though_its_name_is_declared_here(api: Api, database: Database) -> None:
    """Only a workflow of this stack's applications returns to the queue of its declaration."""
    insert(database, ["theirs"], application_name="shop", queue_name="carts")
    insert(database, ["ours"], queue_name="of an older release")
    for workflow_id, queue in (("theirs", "carts"), ("ours", names.FIBONACCI_QUEUE)):
        assert api.http.post(f"/workflows/{workflow_id}/cancel").status_code == 200
        assert api.http.post(f"/workflows/{workflow_id}/resume").status_code == 202
        assert workflow(database, workflow_id)["queue_name"] == queue
    assert database.rows("SELECT workflow_id, queue_name FROM ops.crashes") == [
        {"workflow_id": "theirs", "queue_name": "carts"}
    ]


@pytest.mark.parametrize("status", ["CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"])
def test_an_interrupted_resume_is_repeated_into_the_same_queue(
    api: Api, database: Database, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    insert(database, ["w"], status=status, name="shop.checkout", application_name="shop", queue_name=None)
    database.rows(
        "INSERT INTO ops.crashes (workflow_id, crashes, steps_recorded, queue_name, parked_at, trial_xid,"
        " strays, stray_steps) VALUES ('w', 5, 2, 'carts', now(), 'x', 3, 2)"
    )
    with monkeypatch.context() as interrupted:
        failing = Mock(side_effect=psycopg2.OperationalError)
        interrupted.setattr("holdfast.control.kinds.Resume.begin", failing)
        assert api.http.post("/workflows/w/resume").status_code == 503
    assert api.http.post("/workflows/w/resume").status_code == 202
    assert workflow(database, "w")["queue_name"] == "carts"
    crashes = "SELECT * FROM ops.crashes"
    [row] = database.rows(crashes)
    assert {row[name] for name in ("crashes", "steps_recorded", "strays", "stray_steps")} == {0}
    assert (row["parked_at"], row["trial_xid"], row["queue_name"]) == (None, None, "carts")
    database.rows("UPDATE dbos.workflow_status SET status = 'CANCELLED'")
    database.rows("DELETE FROM dbos.workflow_status")
    assert database.rows(crashes) == [], "it goes with its workflow"


def test_a_fork_runs_in_its_application_on_the_same_input(api: Api, database: Database, shop: Shop) -> None:
    shop.order("queued-checkout", "w", "tea")
    waits_for_payment(api, "w")
    api.http.post("/workflows/w/messages", json={"topic": "payment", "message": 1})
    version = ended(api, "w")["application_version"]
    answer = api.http.post("/workflows/w/fork", json={"start_step": 2})
    assert answer.status_code == 202, answer.text
    forked = answer.json()["workflow_id"]
    api.http.post(f"/workflows/{forked}/messages", json={"topic": "payment", "message": 2})
    row = ended(api, forked)
    assert (row["status"], row["application"], row["application_version"]) == ("SUCCESS", "shop", version)
    assert row["queue_name"] == QUEUE
    assert stored_bytes(database, forked) == stored_bytes(database, "w")


def test_the_page_of_a_workflow_offers_what_can_be_done(api: Api, shop: Shop) -> None:
    shop.order("refuse", "w", "tea")
    ended(api, "w")
    tree = api.http.get("/console/workflows/w/tree").json()
    assert tree["actions"]["fork"] is None
    assert "pickle" not in str(tree["nodes"]) and tree["nodes"][0]["label"] == "shop.refuse"


def test_adoption_of_another_application_needs_a_live_version(api: Api, database: Database) -> None:
    insert(database, ["w"], name="shop.old", application_name="shop", application_version="v1")
    order = {"application": "shop", "from_version": "v1"}
    assert api.http.post("/stranded/adopt", json=order).status_code == 404, "nothing of it was ever seen"
    database.rows("INSERT INTO dbos.application_versions VALUES ('v1-id', 'v1', 1, 1, 'shop')")
    answer = api.http.post("/stranded/adopt", json=order)
    assert answer.status_code == 409 and "No executor of shop is live" in answer.json()["detail"]


def register(database: Database) -> None:
    """Registers the shop as an attached executor of it does."""
    version = database.one(
        "SELECT version_name FROM dbos.application_versions WHERE application_name = 'shop'"
    )
    Peer.start(database, "shop-a", application="shop", version=version)
    workflows = {"shop.checkout": {}, "shop.total": {"class": "Till"}, "shop.parent": {}}
    database.run(
        "publish_registrations",
        executor_id="shop-a",
        serializer="py_pickle",
        workflows=json.dumps(workflows),
        queues=None,
        schedules=[],
    )


def test_a_workflow_starts_by_name_as_its_application_starts_it(
    api: Api, database: Database, shop: Shop
) -> None:
    """Its result, a tuple within a dict, and its child's argument are what JSON cannot represent."""
    register(database)
    body = {"workflow": "shop.total", "args": [[1, 2]], "kwargs": {"tip": 4}}
    ended_row = api.http.post("/workflows", json={**body, "wait": True}).json()
    assert ended_row["status"] == "SUCCESS" and ended_row["report"] is None
    assert AS_PICKLE.fullmatch(ended_row["error"]), "why there is no report"
    workflow_id = ended_row["workflow_id"]
    assert stored_bytes(database, workflow_id)[1] == "py_pickle"
    assert shop.result(workflow_id) == repr({"total": 7, "prices": (1, 2)})
    parent = api.http.post("/workflows", json={"workflow": "shop.parent", "args": ["tea"], "wait": True})
    assert parent.json()["status"] == "SUCCESS", parent.text
    portable = api.http.post("/workflows", json={**body, "portable": True, "wait": True}).json()
    assert portable["report"] == {"total": 7, "prices": [1, 2]}, "the same, as JSON"


def test_a_key_starts_the_workflow_of_another_application_once(
    api: Api, database: Database, shop: Shop
) -> None:
    register(database)
    body = {"workflow": "shop.total", "args": [[1, 2]], "queue": QUEUE}
    answers = [api.http.post("/workflows", json=body, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    first, second = (answer.json()["workflow_id"] for answer in answers)
    assert first == second
    assert ended(api, first)["status"] == "SUCCESS"
    assert shop.result(first) == repr({"total": 3, "prices": (1, 2)})
    again = api.http.post("/workflows", json=body, headers={"Idempotency-Key": "k"}).json()
    assert again == {"workflow_id": first, "status": "SUCCESS"}
    assert shop.result(first) == repr({"total": 3, "prices": (1, 2)}), "its values stay what they are"


def test_what_a_held_deduplication_id_refuses_names_the_holder_and_frees_the_key(
    api: Api, database: Database
) -> None:
    register_silent(database)
    body = {"workflow": "shop.checkout", "queue": QUEUE, "deduplication_id": "cart-7"}
    holder = api.http.post("/workflows", json=body).json()["workflow_id"]
    key = {"Idempotency-Key": "k"}
    for _ in range(2):
        refused = api.http.post("/workflows", json=body, headers=key)
        assert refused.status_code == 409, refused.text
        assert holder in refused.json()["detail"] and "cart-7" in refused.json()["detail"]
    assert database.one("SELECT count(*) FROM dbos.workflow_status") == 1
    other = {**body, "deduplication_id": "cart-8"}
    started = api.http.post("/workflows", json=other, headers=key)
    assert started.status_code == 202, "the key is free for another body"
    assert api.http.post("/workflows", json=other, headers=key).json() == started.json()
    assert api.http.post("/workflows", json=body, headers=key).status_code == 409, "and now stands for it"


@pytest.mark.parametrize("limit", ["concurrency", "worker_concurrency", "rate_limit_max"])
def test_a_partitioned_queue_needs_a_key(api: Api, database: Database, limit: str) -> None:
    register_silent(database)
    body = {"workflow": "shop.checkout", "queue": QUEUE}
    assert api.http.post("/workflows", json=body).status_code == 202
    database.rows(f"UPDATE dbos.queues SET partition_{limit} = 1")
    refused = api.http.post("/workflows", json=body)
    assert (refused.status_code, refused.json()["field"]) == (422, "partition_key"), refused.text
    assert api.http.post("/workflows", json={**body, "partition_key": "north"}).status_code == 202


def register_silent(database: Database) -> None:
    """Registers the shop and its queue, without a process that runs its workflows."""
    database.rows(
        "INSERT INTO dbos.application_versions VALUES ('v1-id', 'v1', 1, 1, 'shop');"
        "INSERT INTO dbos.queues (name, created_at, updated_at, application_name)"
        f" VALUES ('{QUEUE}', 1, 1, 'shop')"
    )
    register(database)
