"""Each condition of a statement counts: a row that misses only one is left alone. And what is locked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest

from holdfast.postgres.database import Connection, query
from tests.support.database import Database, Server

# One live executor runs one workflow, which waits; and what a statement may be asked with.
WORLD = """
INSERT INTO ops.executors (executor_id, application, application_version, role, hostname, pid, port, slots,
    reports_ends)
    VALUES ('x', 'a', '1', 'worker', 'h', 1, 1, 1, true);
INSERT INTO dbos.workflow_status
    (workflow_uuid, status, name, queue_name, application_name, application_version, executor_id, owner_xid)
    VALUES ('w', 'PENDING', 'n', 'q', 'a', '1', 'x', 'o');
INSERT INTO ops.waits (workflow_id, owner_xid, kind, since) VALUES ('w', 'o', 'sleep', now());
INSERT INTO ops.crashes (workflow_id, crashes, steps_recorded, queue_name) VALUES ('w', 1, 0, 'home');
INSERT INTO ops.requests (key, fingerprint, workflow_id) VALUES ('k', 'f', 'w');
INSERT INTO dbos.workflow_schedules
    (schedule_id, schedule_name, workflow_name, schedule, status, application_name, context)
    VALUES ('s', 's', 'n', '* * * * *', 'ACTIVE', 'a', '');
UPDATE ops.schedules SET accounted_until = '2026-01-01Z', next_tick_at = now();
"""
ASKED: dict[str, Any] = {
    "executor_id": "x", "application": "a", "version": "1", "from_version": "1", "to_version": "2", "by":
    "y", "reason": "drained", "drain_seconds": 1, "lease_seconds": 3, "in_flight": 0, "state": "live",
    "only": None, "only_waiting": False, "workflow_id": "w", "workflow_uuid": "w", "owner_xid": "o",
    "workflow_ids": ["w"], "owner_xids": ["o"], "queues": ["q"], "queue_name": "q", "free_slots": 9, "now_ms":
    1, "seconds": 5, "key": "k", "function_id": 1, "function_name": "f", "output": "1", "error": None,
    "child_workflow_id": None, "started_at_epoch_ms": 1, "completed_at": 2, "serialization": None,
    "effect_key": "e", "n": 1, "sha256": "", "status": "SUCCESS", "parent_id": "w", "inputs": ["{}"],
    "name": "n", "attributes": None, "owners": ["o"], "kinds": ["sleep"], "subjects": [None], "waited":
    [0.0], "schedule": "s", "until": "2026-02-01Z", "next_tick_at": None, "missed": 0, "accounted_until":
    "2026-01-01Z", "tick_ids": ["w"], "missing_seconds": 1, "priorities": [0], "names": ["n"],
    "classes": ["", "c", "c/i"], "takes": '{"n": {"names": ["a"]}}',
    "before_ms": 9999999999990, "named": [], "own": [], "limit": 9, "root": "w",
}  # fmt: skip


def of(table: str, change: str) -> str:
    return f"UPDATE {table} SET {change}"


W, X, P, S = "dbos.workflow_status", "ops.executors", "ops.waits", "ops.schedules"
PAUSED, OTHERS = (
    of("dbos.workflow_schedules", each) for each in ("status = 'PAUSED'", "application_name = 'b'")
)
NO_APPLICATION, NO_VERSION = of(W, "application_name = NULL"), of(W, "application_version = NULL")
OTHER_QUEUE, OTHER_EXECUTOR = of(W, "queue_name = 'r'"), of(X, "executor_id = 'y'")
ENDED, ELSEWHERE, RECLAIMED = (
    of(W, "status = 'SUCCESS'"),
    of(W, "executor_id = 'y'"),
    of(W, "owner_xid = 'p'"),
)
GONE = of(W, "workflow_uuid = 'v'")
QUEUED = of(W, "status = 'ENQUEUED'")
DELAYED, PARKED, FAILED, CANCELLED = (
    of(W, f"status = '{status}'")
    for status in ("DELAYED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED", "ERROR", "CANCELLED")
)
# The trigger does it, too, for a cancel of running work.
REVOKED = "INSERT INTO ops.revoked (workflow_id, owner_xid, executor_id) VALUES ('w', 'p', 'x')"
OF_PARENT = of(W, "parent_workflow_id = 'p'")
PARENT_ENDED = "UPDATE dbos.workflow_status SET status = 'CANCELLED' WHERE workflow_uuid = 'p'"
CHILD = (
    f"{ENDED}; {OF_PARENT};"
    " INSERT INTO dbos.workflow_status (workflow_uuid, status, name) VALUES ('p', 'PENDING', 'n')"
)
BELOW = (
    "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, parent_workflow_id, updated_at)"
    " VALUES ('c', 'CANCELLED', 'n', 'w', 1)"
)
CIRCLE = of(W, "parent_workflow_id = 'w'")
AWAITED = (
    "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, owner_xid)"
    " VALUES ('r', 'PENDING', 'n', 'r');"
    " INSERT INTO ops.waits (workflow_id, owner_xid, kind, subject) VALUES ('r', 'r', 'workflow', 'w')"
)
LATER = of(W, "updated_at = 9999999999999")
ATTACHED = (
    "INSERT INTO ops.applications (name, kind, added_by, attached_at) VALUES ('b', 'user', 'attach', now())"
)
OTHER_APPLICATION, OTHER_VERSION = of(W, "application_name = 'b'"), of(W, "application_version = '2'")
DEAD, DRAINED, DRAINING = (of(X, f"state = '{state}'") for state in ("dead", "drained", "draining"))
SILENT, LATE = (of(X, f"heartbeat_at = now() - interval '{seconds} s'") for seconds in (7, 4))
LEFT_OVER = of(P, "owner_xid = ''")
ONE_ARGUMENT, TWO_ARGUMENTS = (f"inputs = '{{\"positionalArgs\": [{each}]}}'" for each in ("1", "1, 2"))
INSTANCE, OTHER_INSTANCE = (f"class_name = 'c', config_name = '{each}'" for each in "ij")

# The statement, what still lets it act (one after the other), and what does not.
CASES: dict[str, tuple[list[str], list[str]]] = {
    "request_drain": ([DRAINING], [DEAD, DRAINED, of(X, "desired_state = 'crashed'"), OTHER_EXECUTOR]),
    "request_crash": ([DRAINING], [DEAD, DRAINED, OTHER_EXECUTOR]),
    "leave": ([DRAINING], [DEAD, DRAINED, OTHER_EXECUTOR]),
    "send_heartbeat": ([DRAINING], [DEAD, DRAINED, OTHER_EXECUTOR]),
    "executors_by_state": ([DRAINING, LATE], [DEAD, DRAINED, SILENT]),
    "orphaned_count": ([DEAD, SILENT, ELSEWHERE], ["", DRAINING, LATE, f"{DEAD}; {QUEUED}"]),
    "stranded": (
        [DEAD, SILENT, f"{OTHER_APPLICATION}; {ATTACHED}", OTHER_VERSION, f"{QUEUED}; {DEAD}"],
        ["", DRAINING, LATE, OTHER_APPLICATION, f"{DEAD}; {ENDED}", f"{DEAD}; {NO_VERSION}"],
    ),
    "adopt": (
        [DEAD, of(X, "application = 'b'"), of(X, "application_version = '2'"), f"{QUEUED}; {DEAD}"],
        ["", DRAINING, SILENT, *(f"{DEAD}; {each}" for each in (ENDED, OTHER_APPLICATION, OTHER_VERSION))],
    ),
    "scan_stranded": (
        [DEAD, of(X, "application = 'b'"), of(X, "application_version = '2'"), f"{QUEUED}; {DEAD}"],
        ["", DRAINING, SILENT, *(f"{DEAD}; {each}" for each in (ENDED, OTHER_APPLICATION, OTHER_VERSION))],
    ),
    "cancel_work": ([QUEUED, DELAYED, PARKED], [ENDED, FAILED, CANCELLED, GONE]),
    "resume_work": (
        [f"{QUEUED}; {CANCELLED}", PARKED, f"{REVOKED}; {CANCELLED}; {DEAD}"],
        ["", ENDED, QUEUED, CANCELLED, *(f"{PARKED}; {each}" for each in (LATER, REVOKED, GONE, BELOW))],
    ),
    "delete_work": (
        [
            *(ENDED, FAILED, PARKED, f"{QUEUED}; {CANCELLED}", f"{REVOKED}; {ENDED}; {DEAD}"),
            *(f"{CHILD}; {PARENT_ENDED}", f"{ENDED}; {CIRCLE}"),
            f"{ENDED}; {AWAITED}; UPDATE ops.waits SET owner_xid = 'p'",
        ],
        [
            *("", QUEUED, DELAYED, CANCELLED, f"{REVOKED}; {ENDED}", CHILD),
            *(f"{ENDED}; {each}" for each in (GONE, BELOW, AWAITED)),
        ],
    ),
    "own_work": ([], [ENDED, QUEUED, ELSEWHERE, OTHER_APPLICATION, OTHER_VERSION]),
    "unfinished_work": ([LEFT_OVER], [ENDED, QUEUED, ELSEWHERE, OTHER_APPLICATION, OTHER_VERSION]),
    "park_work": ([], [ENDED, QUEUED, ELSEWHERE]),
    "delay_work": ([QUEUED], ["", ENDED]),
    "still_owned": ([], [RECLAIMED, of(W, "owner_xid = NULL")]),
    "withdraw_wait": ([LEFT_OVER], [of(P, "owner_xid = 'p'"), f"{LEFT_OVER}; {RECLAIMED}"]),
    "wait_of": ([], [ENDED, RECLAIMED, LEFT_OVER]),
    "lost_executions": ([ENDED, QUEUED, RECLAIMED, of(W, "owner_xid = NULL")], [""]),
    "record_step": ([], [RECLAIMED, of(W, "owner_xid = NULL")]),
    "record_effect": ([], [RECLAIMED, of(W, "owner_xid = NULL")]),
    "end_workflow": ([], [RECLAIMED, ENDED, QUEUED]),
    "claim_queued": (
        [
            QUEUED, f"{QUEUED}; {NO_APPLICATION}", f"{QUEUED}; {NO_VERSION}",
            *(f"{QUEUED}; {of(W, each)}" for each in ("class_name = 'c'", INSTANCE, ONE_ARGUMENT)),
        ],
        [
            "", *(f"{QUEUED}; {each}" for each in (OTHER_APPLICATION, OTHER_VERSION, OTHER_QUEUE)),
            *(f"{QUEUED}; {of(W, each)}" for each in ("name = 'm'", "class_name = 'd'", OTHER_INSTANCE)),
            f"{QUEUED}; {of(W, TWO_ARGUMENTS)}",
        ],
    ),
    "stored_request": ([], [GONE, of("ops.requests", "key = 'l'")]),
    "home_queue": ([], [of("ops.crashes", "queue_name = NULL")]),
    "due_schedules": (
        [of(S, "next_tick_at = NULL"), of("dbos.workflow_schedules", "application_name = NULL")],
        [PAUSED, OTHERS, of(S, "next_tick_at = now() + interval '1 h'")],
    ),
    "account_ticks": ([], [of(S, "accounted_until = '2026-01-02Z'")]),
    "known_ticks": ([QUEUED, ENDED], [GONE]),
}  # fmt: skip
ALONE = {
    "delete_work",
    "orphaned_count",
    "stranded",
    "adopt",
    "scan_stranded",
    "resume_work",
    "delay_work",
    "lost_executions",
    "claim_queued",
}
"""Statements that do nothing in the world as it is."""


@pytest.fixture(scope="module")
def world(server: Server) -> Iterator[Connection]:
    with Database.lent(server) as database:
        connection = database.admin()
        connection.cursor().execute(WORLD)
        yield connection


def acts(connection: Connection, name: str, change: str, **asked: Any) -> bool:
    """Whether the statement finds or changes anything after that change. Both are rolled back."""
    with connection.cursor() as cursor:
        try:
            cursor.execute(f"BEGIN; {change or 'SELECT'}")
            rows = query(connection, name, **{**ASKED, **asked})
            return (
                (bool(rows) and any(rows[0].values())) if name != "delay_work" else cursor_count(connection)
            )
        finally:
            cursor.execute("ROLLBACK")


def cursor_count(connection: Connection) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT FROM dbos.workflow_status WHERE status = 'DELAYED'")
        return bool(cursor.rowcount)


@pytest.mark.parametrize("name", CASES)
def test_each_condition_counts(world: Connection, name: str) -> None:
    matches, misses = CASES[name]
    for change in ([] if name in ALONE else [""]) + matches:
        assert acts(world, name, change), f"does not act after {change!r}"
    for change in misses:
        assert not acts(world, name, change), f"acts after {change!r}"


def test_of_an_executors_work_only_what_was_asked_for_is_released(world: Connection) -> None:
    assert acts(world, "unfinished_work", "", only=["w"]) and not acts(
        world, "unfinished_work", "", only=["v"]
    )
    for change, told in (("", True), (f"DELETE FROM {P}", False), (LEFT_OVER, False)):
        assert acts(world, "unfinished_work", change, only_waiting=True) is told
    assert acts(world, "scan_stranded", DEAD, only="w")
    assert not acts(world, "scan_stranded", DEAD, only="v")


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("unfinished_work", "dbos.workflow_status"),
        ("unfinished_work", "ops.waits"),
        ("record_step", "dbos.workflow_status"),
        ("record_effect", "dbos.workflow_status"),
        ("enqueue_children", "dbos.workflow_status"),
    ],
)
def test_what_was_read_stays_as_it_is_until_the_commit(
    world: Connection, server: Server, name: str, table: str
) -> None:
    asked = {**ASKED, "workflow_ids": ["child"]} if name == "enqueue_children" else ASKED
    other = server.admin(world.info.dbname)
    with world.cursor() as cursor:
        cursor.execute("BEGIN")
        try:
            query(world, name, **asked)
            with pytest.raises(psycopg2.errors.LockNotAvailable):  # a foreign key's lock would let it pass
                other.cursor().execute(f"SELECT FROM {table} FOR SHARE NOWAIT")
        finally:
            cursor.execute("ROLLBACK")
            other.close()


def test_children_of_an_ended_parent_are_not_stored(world: Connection) -> None:
    for change, stored in (("", 1), (QUEUED, 1), (ENDED, 0)):
        with world.cursor() as cursor:
            cursor.execute(f"BEGIN; {change or 'SELECT'}")
            query(world, "enqueue_children", **{**ASKED, "workflow_ids": ["child"]})
            cursor.execute("SELECT FROM dbos.workflow_input WHERE workflow_uuid = 'child'")
            assert cursor.rowcount == stored
            cursor.execute("ROLLBACK")


def test_a_claim_passes_by_what_another_one_holds(world: Connection, server: Server) -> None:
    other = server.admin(world.info.dbname)
    with world.cursor() as cursor, other.cursor() as holder:
        cursor.execute(QUEUED)
        holder.execute("BEGIN; SELECT FROM dbos.workflow_status FOR UPDATE")
        cursor.execute("SET lock_timeout = '1s'")
        assert query(world, "claim_queued", **ASKED) == []
        holder.execute("ROLLBACK")
        cursor.execute(of(W, "status = 'PENDING'"))
    other.close()
