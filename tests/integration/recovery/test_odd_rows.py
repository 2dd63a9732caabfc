"""Whatever anything has written into a row's columns: the other work goes on, and all of it is seen."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from holdfast.observability.database_metrics import DatabaseCollector
from holdfast.postgres.database import OpsPool
from holdfast.recovery import takeover
from holdfast.recovery.orphans import ALONE_SECONDS
from tests.support.api_server import Api, serving
from tests.support.database import Database
from tests.support.executors import Peer, insert, workflow

BIG, SMALL = 2**63 - 1, -(2**63)
ODD: dict[str, list[Any]] = {
    "text": [
        None,
        "",
        "x" * 8_000,
        "\x1b]52;c;eA==\x07\x1b[2K",
        "\u202eevil",
        "{",
        "NaN",
        "PENDING",
        "\U0001f600" * 200,
    ],
    "character varying": [None, "", "x" * 255, "\x9b31m"],
    "bigint": [None, BIG, SMALL, 9 * 10**18, -1, 0, 10**18, 253402300800000],
    "integer": [None, 2**31 - 1, -(2**31), 0],
    "boolean": [None, True, False],
    "jsonb": [None, "null", "[]", '"x"', '{"a": 1e400}', "[[[[]]]]"],
}
"""Values of each type, planted in each column of that type."""
KEPT = {"workflow_uuid", "status", "executor_id", "application_name", "application_version"}
"""What makes a row the running work of an executor."""


def columns(database: Database) -> dict[str, str]:
    rows = database.rows(
        "SELECT column_name, data_type FROM information_schema.columns"
        " WHERE table_schema = 'dbos' AND table_name = 'workflow_status'"
    )
    return {row["column_name"]: row["data_type"] for row in rows}


def plant(database: Database, workflow_id: str, **values: Any) -> bool:
    """Stores a row. Returns False if DBOS's own schema refuses the values."""
    row = {"status": "PENDING", "created_at": 1, "updated_at": 1, "priority": 0, **values}
    names = ", ".join(row)
    try:
        database.rows(
            f"INSERT INTO dbos.workflow_status (workflow_uuid, {names})"
            f" VALUES (%(workflow_uuid)s, {', '.join(f'%({name})s' for name in row)})",
            **{"workflow_uuid": workflow_id, **row},
        )
    except (psycopg2.IntegrityError, psycopg2.OperationalError):
        return False
    return True


def planted(database: Database, peer: Peer, seed: int = 1) -> list[str]:
    """Gives the peer work with odd values: one in each row, then several at random."""
    database.rows("ALTER TABLE dbos.workflow_status DISABLE TRIGGER USER")
    kinds = columns(database)
    running = {
        "name": "fibonacci.number",
        "queue_name": "fibonacci",
        "executor_id": peer.id,
        "application_name": peer.identity.application,
        "application_version": peer.identity.version,
        "owner_xid": "owner",
        "recovery_attempts": 1,
        "started_at_epoch_ms": 1,
    }
    ids = []
    for column, kind in kinds.items():
        for n, value in enumerate(ODD[kind]):
            if column not in KEPT and plant(database, f"odd-{column}-{n}", **{**running, column: value}):
                ids.append(f"odd-{column}-{n}")
    chance = random.Random(seed)
    for n in range(40):
        some = chance.sample(sorted(kinds.keys() - KEPT), 8)
        values = {column: chance.choice(ODD[kinds[column]]) for column in some}
        if plant(database, f"odd-many-{n}", **{**running, **values}):
            ids.append(f"odd-many-{n}")
    # No executor owns these rows: only statements that read them may fail.
    for column in ("status", "executor_id", "application_name", "application_version"):
        for n, value in enumerate(ODD["text"]):
            plant(database, f"strange-{column}-{n}", **{**running, column: value})
    plant(database, "circle-1", **{**running, "parent_workflow_id": "circle-2", "status": "CANCELLED"})
    plant(database, "circle-2", **{**running, "parent_workflow_id": "circle-1", "status": "CANCELLED"})
    plant(database, "own-parent", **{**running, "parent_workflow_id": "own-parent", "status": "CANCELLED"})
    database.rows("ALTER TABLE dbos.workflow_status ENABLE TRIGGER USER")
    insert(database, ["good-1", "good-2"], status="PENDING", executor_id=peer.id)
    assert len(ids) > 150
    return ids


def moved(database: Database, ids: list[str]) -> None:
    """All is back in a queue or parked, and the ordinary work is in its queue."""
    for workflow_id in ("good-1", "good-2"):
        row = workflow(database, workflow_id)
        assert (row["status"], row["queue_name"]) == ("ENQUEUED", "fibonacci")
    left = database.rows(
        "SELECT workflow_uuid FROM dbos.workflow_status WHERE workflow_uuid = ANY (%(ids)s)"
        " AND status NOT IN ('ENQUEUED', 'DELAYED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')",
        ids=ids,
    )
    assert not left


def test_a_takeover_moves_everything(database: Database) -> None:
    me, peer = (Peer.start(database, f"worker-{name}") for name in ("me", "peer"))
    ids = planted(database, peer)
    peer.die()
    assert me.poll_twice() == [peer.id]
    moved(database, ids)


def test_a_drain_hands_everything_over(database: Database) -> None:
    peer = Peer.start(database, "worker-peer")
    ids = planted(database, peer)
    result = takeover.hand_over(peer.settings, peer.identity, only_waiting=False)
    assert result is not None and not result.left
    assert peer.state == "drained"
    moved(database, ids)


def test_orphans_are_released(database: Database) -> None:
    me, peer = (Peer.start(database, f"worker-{name}") for name in ("me", "peer"))
    ids = planted(database, peer)
    database.rows("UPDATE ops.executors SET state = 'dead' WHERE executor_id = %(id)s", id=peer.id)
    me.clock.move(ALONE_SECONDS)
    me.round()
    moved(database, ids)


def test_an_error_costs_its_row_alone(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the database refuses: here a constraint of the installation's own."""
    me, peer = (Peer.start(database, f"worker-{name}") for name in ("me", "peer"))
    peer.runs("good-1", "good-2", "refused")
    refuse(database, "workflow_uuid = 'refused'")
    peer.die()
    assert me.poll_twice() == [peer.id]
    moved(database, [])
    assert workflow(database, "refused")["status"] == "MAX_RECOVERY_ATTEMPTS_EXCEEDED"
    ((_, verdicts, _),) = me.takeovers
    assert {v.work.workflow_id: v.action for v in verdicts}["refused"] == "park"
    assert [r.workflow_ids for r in caplog.records if getattr(r, "action", "") == "workflow.parked"] == [
        ["refused"]
    ]  # type: ignore[attr-defined]


def refuse(database: Database, condition: str) -> None:
    """A constraint of the installation's own: no row with this condition goes back to a queue."""
    database.rows(
        "ALTER TABLE dbos.workflow_status ADD CONSTRAINT own"
        f" CHECK (NOT ({condition}) OR status <> 'ENQUEUED')"
    )


def refused(caplog: pytest.LogCaptureFixture) -> set[str]:
    return {
        workflow_id
        for record in caplog.records
        if getattr(record, "action", "") == "workflow.refused"
        for workflow_id in record.workflow_ids  # type: ignore[attr-defined]
    }


@pytest.mark.parametrize("ids", [["only"], ["first", "second"]], ids=["one row", "all rows"])
def test_an_error_that_all_rows_share_parks_none(
    database: Database, caplog: pytest.LogCaptureFixture, ids: list[str]
) -> None:
    """They keep their queue, nothing else stops, and they go on when the error is gone."""
    me, peer, other = (Peer.start(database, f"worker-{name}") for name in ("me", "peer", "other"))
    peer.runs(*ids)
    other.runs("good-1", "good-2")
    refuse(database, f"workflow_uuid = ANY ('{{{','.join(ids)}}}')")
    for lost in (peer, other):
        lost.die()
        assert me.poll_twice() == [lost.id]
    moved(database, [])
    assert refused(caplog) == set(ids)
    rows = [workflow(database, workflow_id) for workflow_id in ids]
    assert {(row["status"], row["queue_name"]) for row in rows} == {("PENDING", "fibonacci")}
    database.rows("ALTER TABLE dbos.workflow_status DROP CONSTRAINT own")
    me.clock.move(ALONE_SECONDS)
    me.round()
    moved(database, ids)
    assert {workflow(database, workflow_id)["status"] for workflow_id in ids} == {"ENQUEUED"}


def test_a_drain_parks_nothing(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    peer = Peer.start(database, "worker-peer")
    peer.runs("good-1", "good-2", "refused")
    refuse(database, "workflow_uuid = 'refused'")
    result = takeover.hand_over(peer.settings, peer.identity, only_waiting=False)
    assert result is not None and result.left == {"refused"}
    assert refused(caplog) == {"refused"}
    moved(database, [])
    row = workflow(database, "refused")
    assert (row["status"], row["queue_name"]) == ("PENDING", "fibonacci")


def test_an_error_with_one_executor_delays_no_orphans(database: Database) -> None:
    """Not even one that the row's own parking meets."""
    me, peer, gone = (Peer.start(database, f"worker-{name}") for name in ("me", "peer", "gone"))
    peer.runs("refused")
    gone.runs("good-1", "good-2")
    database.rows("ALTER TABLE ops.executors ADD CHECK (executor_id <> 'worker-peer' OR state <> 'dead')")
    database.rows("UPDATE ops.executors SET state = 'dead' WHERE executor_id = %(id)s", id=gone.id)
    peer.die()
    with pytest.raises(psycopg2.Error):
        me.poll_twice()
    moved(database, [])


# --- those who read ------------------------------------------------------------------------


@pytest.fixture
def api(database: Database) -> Iterator[Api]:
    planted(database, Peer.start(database, "worker-peer"))
    for name, heartbeat in (("ahead", "infinity"), ("behind", "-infinity")):
        Peer.start(database, f"worker-{name}")
        database.rows(
            "UPDATE ops.executors SET heartbeat_at = %(heartbeat)s::timestamptz WHERE executor_id = %(id)s",
            heartbeat=heartbeat,
            id=f"worker-{name}",
        )
    for at, lateness in (("infinity", "NaN"), ("2026-01-01Z", "Infinity"), ("now", "NaN")):
        database.rows(
            "INSERT INTO ops.pulses (scheduled_at, workflow_id, executor_id, lateness_seconds, status,"
            " queue_depth, live_executors)"
            " VALUES (%(at)s::timestamptz, 'w', 'e', %(lateness)s::float8, 'run', 0, 0)",
            at=at,
            lateness=lateness,
        )
    with serving(database.settings("api")) as made:
        yield made


def test_every_workflow_is_listed_and_shown(database: Database, api: Api) -> None:
    listed: list[str] = []
    before = ""
    while before is not None:
        answer = api.http.get("/workflows", params={"limit": 200, **({"before": before} if before else {})})
        assert answer.status_code == 200, answer.text
        listed += [row["workflow_id"] for row in answer.json()["workflows"]]
        before = answer.json()["next_before"]
    assert sorted(listed) == sorted(
        row["workflow_uuid"] for row in database.rows("SELECT workflow_uuid FROM dbos.workflow_status")
    )
    shown = [workflow_id for workflow_id in listed if workflow_id[-2:] in ("-0", "-1", "-2")]
    paths = [f"/console/workflows/{workflow_id}/tree" for workflow_id in shown]
    for path in [*paths, *(f"/workflows/{workflow_id}" for workflow_id in listed[::10])]:
        answer = api.http.get(path)
        assert answer.status_code == 200, (path, answer.text)
        strict(answer.text)
    assert api.http.get("/executors").status_code == 200


def strict(text: str) -> Any:
    """The value of a text that every reader of JSON takes."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_page_gets_its_data(api: Api) -> None:
    with api.http.stream("GET", "/console/events") as stream:
        lines = stream.iter_lines()
        data = next(line for line in lines if line.startswith("data: "))
    snapshot = strict(data.removeprefix("data: "))
    assert snapshot["database"]["up"]
    assert {bar["workflow_id"] for bar in snapshot["bars"]} >= {"good-1", "good-2"}
    assert {each["executor_id"] for each in snapshot["executors"]} >= {"worker-ahead", "worker-peer"}


def test_the_metrics_of_the_database_are_complete(database: Database, api: Api) -> None:
    pool = OpsPool(database.settings("api"), purpose="holdfast/test")
    collector = DatabaseCollector(
        pool.run_all, applications=["holdfast-worker"], late_seconds=65.0, lease_seconds=5.0
    )
    registry = CollectorRegistry()
    registry.register(collector)
    text = generate_latest(registry).decode()
    pool.close()
    assert "holdfast_database_up 1.0" in text
    assert 'holdfast_executors{application="holdfast-worker",state="live"}' in text
    assert 'workflow_name="fibonacci.number"' in text


@pytest.mark.parametrize("workflow_id", ["circle-1", "own-parent"])
def test_circles_of_parents_end(database: Database, workflow_id: str) -> None:
    for child, parent in (("circle-1", "circle-2"), ("circle-2", "circle-1"), ("own-parent", "own-parent")):
        insert(database, [child], status="CANCELLED", parent_workflow_id=parent)
    with serving(database.settings("api")) as api:
        assert api.http.post(f"/workflows/{workflow_id}/resume").status_code == 202
    assert workflow(database, workflow_id)["status"] == "ENQUEUED"
