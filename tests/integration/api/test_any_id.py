"""Any id that PostgreSQL stores, over real HTTP: the list's cursor, each route, and the commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from holdfast.cli.main import app
from holdfast.path_segment import workflow_path
from tests.support import names
from tests.support.api_server import Api, serving
from tests.support.database import Database
from tests.support.executors import insert
from tests.unit.api import test_any_id

ODD = sorted({*test_any_id.ODD[::5], "..", "a/steps", "line\nend", "x" * 1000})


@pytest.fixture
def api(database: Database) -> Iterator[Api]:
    insert(database, ODD, name=names.FIBONACCI_NUMBER, status="ENQUEUED")
    with serving(database.settings("api")) as made:
        yield made


def test_the_cursor_passes_over_every_id(api: Api) -> None:
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 3, "before": f"{10**14}~x"}
    while query["before"]:
        page = api.http.get("/workflows", params=query).json()
        seen += [row["workflow_id"] for row in page["workflows"]]
        query["before"] = page["next_before"]
        # The row that the cursor names may be deleted meanwhile.
        last = workflow_path(seen[-1])
        api.http.post(f"{last}/cancel").raise_for_status()
        api.http.delete(last).raise_for_status()
    assert sorted(seen) == sorted(ODD)


def test_every_operation_reaches_its_workflow_alone(api: Api, database: Database) -> None:
    for workflow_id in ODD:
        path = workflow_path(workflow_id)
        for below in ("", "/steps", "/events", "/streams"):
            assert api.http.get(f"{path}{below}").json()["workflow_id"] == workflow_id
        assert api.http.get(f"/console{path}/tree").json()["workflow_id"] == workflow_id
        forked = api.http.post(f"{path}/fork").json()["workflow_id"]
        assert api.http.get(workflow_path(forked)).json()["forked_from"] == workflow_id
        api.http.post(f"{path}/cancel").raise_for_status()
        cancelled = "SELECT array_agg(workflow_uuid) FROM dbos.workflow_status WHERE status = 'CANCELLED'"
        assert database.one(cancelled) == [workflow_id]
        assert api.http.post(f"{path}/resume").json() == {"workflow_id": workflow_id, "status": "ENQUEUED"}
        assert database.one(cancelled) is None
        api.http.post(f"{path}/cancel").raise_for_status()
        assert api.http.delete(path).json() == {"workflow_id": workflow_id, "deleted": 1}
        assert database.one(cancelled) is None and api.http.get(path).status_code == 404


def test_commands_take_any_id(api: Api, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_URL", str(api.http.base_url))
    monkeypatch.setenv("HOLDFAST_ADMIN_TOKEN_FILE", str(api.process.settings.admin_token_file))
    for workflow_id in ODD:
        for command in (["events", "--json", "--", workflow_id], ["send", "--json", "--", workflow_id, "1"]):
            done = CliRunner().invoke(app, command)
            assert done.exit_code == 0, done.output
            assert json.loads(done.output)["workflow_id"] == workflow_id
    refused = CliRunner().invoke(app, ["delete", "--json", "--", ODD[0]])
    assert refused.exit_code == 1 and "is ENQUEUED" in refused.stderr
    database.rows("UPDATE dbos.workflow_status SET status = 'SUCCESS'")
    for workflow_id in ODD:
        done = CliRunner().invoke(app, ["delete", "--json", "--", workflow_id])
        assert json.loads(done.output) == {"workflow_id": workflow_id, "deleted": 1}
