"""Whatever id an application gives its workflow, each route finds that workflow and no other."""

from __future__ import annotations

from urllib.parse import quote

import httpx
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.path_segment import decode_segment, encode_segment, workflow_path
from tests.support import names
from tests.support.app import create_app
from tests.unit.api_fakes import FakeProcess

ODD = [
    *("a/b", "/", "//", "a/steps", "a/cancel", "a/../b", "..", ".", "~.", "~..", "~~.", "...", "~"),
    *("a b", "a+b", "50%", "%2F", "%2f", "%252F", "a?b=c", "a#b", "a;b", "a&b", "a\\b", '"', "<b>", "a:b"),
    *("a\nb", "\n", "a\n", "steps\n", "\t", "\x7f", "\x01", "é", "ü", "😀", "\u202e", "\ufeff", "a\u0300"),
    *("x" * 1000, "😀" * 1000, "/" * 1000, "null", "streams/key", "a/streams/b"),
]
IDS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=30)
PARTS = st.lists(
    st.sampled_from(["/", ".", "..", "~", "%", "2F", "a", "steps", "cancel", "?", "#", " ", "\n", "ü", "😀"]),
    min_size=1,
    max_size=6,
).map("".join)


@given(PARTS | IDS)
def test_a_segment_is_one_id_and_an_id_one_segment(text: str) -> None:
    segment = encode_segment(text)
    assert decode_segment(segment) == text
    assert httpx.URL(f"http://h/workflows/{segment}/steps").raw_path == f"/workflows/{segment}/steps".encode()


@pytest.mark.parametrize("workflow_id", ODD)
def test_every_route_finds_the_workflow(client: TestClient, process: FakeProcess, workflow_id: str) -> None:
    every_route(client, process, workflow_id)


def test_every_route_finds_any_workflow(client: TestClient, process: FakeProcess) -> None:
    @settings(max_examples=25, deadline=None)
    @given(PARTS | IDS)
    def each(workflow_id: str) -> None:
        every_route(client, process, workflow_id)

    each()


def every_route(client: TestClient, process: FakeProcess, workflow_id: str) -> None:
    dbos = process.gateway.client
    dbos.rows.clear()
    dbos.forked.clear()
    dbos.add(workflow_id, status="PENDING", name=names.NESTED_ROOT, created_at=2)
    dbos.add("older", status="PENDING", name=names.NESTED_ROOT, created_at=1)
    path = workflow_path(workflow_id)
    for below in ("", "/steps", "/events", "/streams"):
        assert client.get(f"{path}{below}").json()["workflow_id"] == workflow_id, below
    assert client.get(f"/console{path}").status_code == 200
    [first] = (page := client.get("/workflows", params={"limit": 1}).json())["workflows"]
    [second] = client.get("/workflows", params={"before": page["next_before"]}).json()["workflows"]
    assert (first["workflow_id"], second["workflow_id"]) == (workflow_id, "older")
    [again] = client.get("/workflows", params={"prefix": workflow_id}).json()["workflows"][:1]
    assert again["workflow_id"] == workflow_id
    sent = client.post(f"{path}/messages", json={"message": 1})
    assert (sent.status_code, sent.json()["workflow_id"]) == (202, workflow_id)
    for operation in ("cancel", "resume"):
        assert client.post(f"{path}/{operation}").json()["workflow_id"] == workflow_id, operation
    forked = client.post(f"{path}/fork")
    assert (forked.status_code, dbos.rows[forked.json()["workflow_id"]].forked_from) == (202, workflow_id)
    assert client.delete(path).json() == {"workflow_id": workflow_id, "deleted": 1}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/workflows/a%00b", 422),
        ("/workflows/%ff", 422),
        ("/workflows/%ed%b0%af", 422),  # a surrogate
        ("/workflows/" + "x" * 2001, 422),
        ("/workflows/w/steps%0A", 404),
        ("/workflows/w%2Fsteps", 404),
        ("/workflows%2Fw", 404),
    ],
)
def test_what_is_no_workflows_address(
    client: TestClient, process: FakeProcess, path: str, status: int
) -> None:
    process.gateway.client.add("w")
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    assert "\udc2f" not in answer.json()["instance"]


def test_one_key_for_the_forks_of_two_workflows_is_refused(client: TestClient, process: FakeProcess) -> None:
    for workflow_id in ("a?b", "a?c"):
        process.gateway.client.add(workflow_id, status="SUCCESS", name=names.NESTED_ROOT)
    statuses = [
        client.post(f"{workflow_path(each)}/fork", headers={"Idempotency-Key": "k"}).status_code
        for each in ("a?b", "a?c", "a?b")
    ]
    assert statuses == [202, 409, 202]


def test_the_page_of_any_id_needs_no_token(process: FakeProcess) -> None:
    process.settings = process.settings.model_copy(update={"require_token": True})
    with TestClient(create_app(process)) as client:  # type: ignore[arg-type]
        for workflow_id in ODD:
            assert client.get(f"/console{workflow_path(workflow_id)}").status_code == 200, workflow_id
        assert client.get(f"/console/workflows/a/{quote('tree', safe='')}").status_code == 401
