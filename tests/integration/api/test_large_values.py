"""Whatever is stored, a reader holds a bounded part of it, and each answer is one state of the database."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from holdfast.audit import checks
from holdfast.audit.audit import Audit
from services.holdfast_commands import SUBJECTS
from tests.support import names
from tests.support.api_server import Api, serving
from tests.support.database import Database
from tests.support.executors import insert

MEGABYTE = 1024 * 1024
VALUES = 40
LIMIT_BYTES = 12 * MEGABYTE
"""Below a third of what is stored in any one table."""

_FILL = f"""
CREATE TEMP TABLE given AS SELECT 'w' AS id, g, ('"' || repeat('x', {MEGABYTE}) || '"') AS value
    FROM generate_series(1, {VALUES}) AS g;
INSERT INTO dbos.workflow_status
    (workflow_uuid, name, status, serialization, created_at, updated_at, queue_name)
    SELECT CASE g WHEN 1 THEN 'w' ELSE 'number-' || g END, '{names.FIBONACCI_NUMBER}',
           CASE WHEN g % 2 = 0 THEN 'SUCCESS' ELSE 'ERROR' END, 'portable_json', g, g, 'q' FROM given;
INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, function_name, output, error, serialization)
    SELECT id, g, 'big', CASE WHEN g % 2 = 0 THEN value END,
           CASE WHEN g % 2 = 1 THEN '{{"name":"E","message":' || value || ',"code":null}}' END,
           'portable_json' FROM given;
INSERT INTO dbos.workflow_events (workflow_uuid, key, value, serialization)
    SELECT id, g::text, value, 'portable_json' FROM given;
INSERT INTO dbos.streams (workflow_uuid, key, value, "offset", function_id, serialization)
    SELECT id, 'all', value, g - 1, g, 'portable_json' FROM given;
INSERT INTO dbos.notifications (destination_uuid, topic, message, serialization)
    SELECT id, 'topic', value, 'portable_json' FROM given;
INSERT INTO dbos.workflow_input (workflow_uuid, inputs)
    SELECT workflow_uuid, '{{"positionalArgs":[' || created_at || ',' || value || '],"namedArgs":{{}}}}'
    FROM dbos.workflow_status JOIN given ON g = created_at;
INSERT INTO dbos.workflow_output (workflow_uuid, output, error)
    SELECT workflow_uuid, '{{"n":1,"result":' || value || '}}', CASE WHEN status = 'ERROR' THEN
           '{{"name":"E","message":"short","code":null,"data":' || value || '}}' END
    FROM dbos.workflow_status JOIN given ON g = created_at;
"""


@pytest.fixture
def api(database: Database) -> Iterator[Api]:
    with serving(database.settings("api")) as made:
        yield made


def test_no_answer_and_no_audit_reads_more_than_its_limit(api: Api, database: Database) -> None:
    database.rows(_FILL)
    steps = api.http.get("/workflows/w/steps?limit=1000").json()["steps"]
    assert [len(step["output"] or step["error"]) for step in steps] == [1000, 4096] * (VALUES // 2)
    assert all(step["output_shortened"] or step["error_shortened"] for step in steps)
    assert steps[0]["error"].startswith("E: xxx")
    tracemalloc.start()
    try:
        paths = (
            "/workflows?limit=200",
            "/workflows/w",
            "/workflows/w/steps?limit=1000",
            "/workflows/w/events",
        )
        for path in (*paths, "/workflows/w/streams", "/workflows/w/streams/all", "/console/workflows/w/tree"):
            assert len(api.http.get(path).content) > 50, path
            peak = tracemalloc.get_traced_memory()[1]
            assert peak < LIMIT_BYTES, f"{path} took {peak:,} bytes"
            tracemalloc.reset_peak()
        checks.run(Audit(database.connect(role="api"), database.settings("api"), SUBJECTS, None, False, 0.0))
        assert tracemalloc.get_traced_memory()[1] < LIMIT_BYTES, "the audit"
    finally:
        tracemalloc.stop()


def test_what_is_shortened_says_so(api: Api, database: Database) -> None:
    database.rows(_FILL)
    shown = api.http.get("/workflows/w").json()
    assert (shown["error"], shown["error_shortened"]) == ("E: short", True)
    assert shown["input_shortened"] and shown["input"].startswith('{"positionalArgs":[1,"xxx')
    assert shown["output_shortened"] and len(shown["output"]) == 4096
    waited = api.http.get("/workflows/w?wait=1").json()
    assert waited == shown
    [event, *_] = api.http.get("/workflows/w/events").json()["events"]
    assert (event["shortened"], event["bytes"]) == (True, MEGABYTE + 2)


def test_a_step_is_shown_with_its_output_or_not_at_all(
    api: Api, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several statements of one answer would see several states: here a step is stored after each of them."""
    insert(database, ["w"], status="PENDING")
    gateway: Any = api.process.gateway
    run, calls, lock = gateway.call, [0], threading.Lock()

    async def call(*args: Any, **kwargs: Any) -> Any:
        answer = await run(*args, **kwargs)
        with lock:
            calls[0] += 1
            database.rows(
                "INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, function_name, output,"
                " completed_at_epoch_ms, serialization) VALUES ('w', %(id)s, 's', '1', 1, 'portable_json')",
                id=calls[0],
            )
        return answer

    monkeypatch.setattr(gateway, "call", call)
    for _ in range(3):
        steps = api.http.get("/workflows/w/steps").json()["steps"]
        assert [step["output"] for step in steps] == [1] * len(steps)
    assert steps
