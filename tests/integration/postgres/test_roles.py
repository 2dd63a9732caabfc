"""What each role of the database may not do, tried with its own login; and that the logins are enough."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import psycopg2
import psycopg2.extensions
import psycopg2.extras
import pytest

from holdfast.installations.embedded import ROOT
from holdfast.observability.database_metrics import DatabaseCollector
from holdfast.postgres import budget
from holdfast.postgres.database import METRICS_USER, Connection, OpsPool
from holdfast.settings import Role, Settings
from holdfast.statuses import UNFINISHED
from tests.support import names
from tests.support.api_server import serving
from tests.support.database import Database, Server, wait_until
from tests.support.engines import worker_process
from tests.support.executors import Peer, insert, record_steps

ROLES_SQL = (ROOT / "postgres" / "roles.sql").read_text("utf-8")
LIMITS = {
    name: int(limit) for name, limit in re.findall(r"ALTER ROLE (\w+) .*CONNECTION LIMIT (\d+)", ROLES_SQL)
}
CONSUMER = {
    "holdfast_migrator": "migrate",
    "holdfast_api": "api",
    "holdfast_worker": "worker",
    METRICS_USER: "api",
}
WORKERS = 8
"""As many as the connections are meant for (postgres/roles.sql)."""


@pytest.fixture(scope="module")
def shared(server: Server) -> Iterator[Database]:
    """One database for tests that leave nothing behind."""
    with Database.lent(server) as made:
        insert(made, ["w"], status="SUCCESS", application_name="holdfast-api")
        made.rows(
            "INSERT INTO ops.effects (workflow_id, effect_key, executor_id, n, sha256)"
            " VALUES ('w','k','e',1,'s')"
        )
        yield made


def login(database: Database, role: str, *, name: str | None = None, **options: Any) -> Connection:
    """A connection with that role's own password, as its consumer has it."""
    consumer = CONSUMER.get(role, "api")
    connection: Connection = psycopg2.connect(
        host="127.0.0.1",
        port=database.server.cluster.port,
        user=role,
        dbname=name or database.name,
        passfile=str(database.server.secrets / consumer / "pgpass"),
        cursor_factory=psycopg2.extras.RealDictCursor,
        **options,
    )
    connection.autocommit = True
    return connection


def refused(database: Database, role: str, statement: str) -> None:
    with closing(login(database, role)) as connection:
        if role == METRICS_USER:  # the rights hold, not only the default that anyone may change
            connection.cursor().execute("SET default_transaction_read_only = off")
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            connection.cursor().execute(statement)


NOBODY_MAY = [
    "CREATE TABLE ops.mine (x int)",
    "CREATE TABLE public.mine (x int)",
    "CREATE TABLE dbos.mine (x int)",
    "CREATE SCHEMA mine",
    "ALTER TABLE ops.executors ADD COLUMN x int",
    "DROP TABLE ops.effects",
    "TRUNCATE ops.effects",
    "TRUNCATE dbos.workflow_status",
    "DROP TRIGGER holdfast_claimed ON dbos.workflow_status",
    "ALTER TABLE dbos.workflow_status DISABLE TRIGGER ALL",
    "CREATE OR REPLACE FUNCTION ops.notify_queue() RETURNS trigger LANGUAGE sql AS ''",
    "CREATE ROLE mine",
    "ALTER ROLE holdfast_api CONNECTION LIMIT -1",
    "SET ROLE holdfast_owner",
    "SET ROLE holdfast_migrator",
    "SET temp_file_limit = -1",
    "SET session_replication_role = replica",
    "INSERT INTO ops.migrations (name) VALUES ('x')",
    "DELETE FROM ops.migrations",
    "UPDATE dbos.dbos_migrations SET version = 0",
    "UPDATE ops.totals SET value = 0",
    "UPDATE ops.effects SET n = 1",
    "DELETE FROM ops.effects",
    "DELETE FROM ops.totals",
    "DELETE FROM ops.retention",
    "UPDATE dbos.notifications SET message = ''",
    "UPDATE dbos.streams SET value = ''",
    "UPDATE dbos.workflow_events SET key = ''",
    "DELETE FROM dbos.notifications",
    "DELETE FROM dbos.workflow_events",
    "DELETE FROM dbos.streams",
    "INSERT INTO ops.retention DEFAULT VALUES",
    "SELECT ops.forget_deleted()",
    "COPY ops.executors TO PROGRAM 'cat'",
    "COPY ops.executors TO '/tmp/executors'",
    "SELECT pg_read_file('/etc/hostname')",
    "SELECT pg_ls_dir('/')",
    "SELECT lo_import('/etc/hostname')",
    "SELECT rolpassword FROM pg_authid",
    "SELECT pg_reload_conf()",
    "ALTER SYSTEM SET fsync = off",
]
MAY_NOT = {
    "holdfast_api": [
        "ALTER ROLE holdfast_worker PASSWORD 'mine'",
        "DELETE FROM dbos.workflow_status",
        "DELETE FROM dbos.workflow_input",
        "DELETE FROM dbos.workflow_output",
        "DELETE FROM dbos.operation_outputs",
        "DELETE FROM dbos.queues",
        "INSERT INTO dbos.datasource_outputs (workflow_id, step_id) VALUES ('w', 1)",
        "UPDATE dbos.workflow_schedules SET schedule = ''",
        "INSERT INTO ops.effects (workflow_id) VALUES ('w')",
        "INSERT INTO ops.pulses (workflow_id) VALUES ('w')",
        "DELETE FROM ops.executors",
        "DELETE FROM ops.handovers",
        "DELETE FROM ops.pulses",
        "DELETE FROM ops.requests",
        "UPDATE ops.retention SET purged_until = now()",
        "SELECT ops.fold_totals()",
        "SELECT ops.fire_tick('t', 's', now(), 'w', NULL, 'q', 'a', '1', '[]')",
        "UPDATE ops.schedules SET overlap = 'skip'",
    ],
    "holdfast_worker": [
        "SELECT ops.start_waiting_tick('s')",
        "DELETE FROM ops.skipped_ticks",
        "DELETE FROM ops.schedules",
        "ALTER ROLE holdfast_api PASSWORD 'mine'",
        "INSERT INTO ops.requests (key) VALUES ('k')",
        "UPDATE ops.requests SET workflow_id = 'other'",
        "UPDATE ops.pulses SET status = 'run'",
        "DELETE FROM dbos.queues",
        "DELETE FROM dbos.workflow_schedules",
        "DELETE FROM dbos.application_versions",
    ],
    METRICS_USER: [
        "ALTER ROLE holdfast_api PASSWORD 'mine'",
        # Rows of older versions of DBOS have their payloads in these columns.
        "SELECT inputs FROM dbos.workflow_status",
        "SELECT output FROM dbos.workflow_status",
        "SELECT error FROM dbos.workflow_status",
        "SELECT request FROM dbos.workflow_status",
        "SELECT authenticated_user FROM dbos.workflow_status",
        "SELECT FROM dbos.workflow_status w WHERE w IS NOT NULL",
        "SELECT inputs FROM dbos.workflow_input",
        "SELECT output FROM dbos.workflow_output",
        "SELECT output FROM dbos.operation_outputs",
        "SELECT value FROM dbos.workflow_events",
        "SELECT message FROM dbos.notifications",
        "SELECT key FROM ops.requests",
        "SELECT sha256 FROM ops.effects",
        "UPDATE dbos.workflow_status SET status = 'CANCELLED'",
        "INSERT INTO dbos.workflow_status (workflow_uuid) VALUES ('x')",
        "UPDATE ops.executors SET state = 'dead'",
        "DELETE FROM ops.crashes",
        "DELETE FROM ops.handovers",
        "UPDATE ops.retention SET purged_until = now()",
        "SELECT ops.fold_totals()",
        "SELECT ops.end_sessions('x')",
        "SELECT ops.delete_ended('{w}')",
    ],
}


@pytest.mark.parametrize(
    ("role", "statement"),
    [(role, statement) for role in MAY_NOT for statement in NOBODY_MAY + MAY_NOT[role]],
)
def test_what_a_role_may_not_do(shared: Database, role: str, statement: str) -> None:
    refused(shared, role, statement)


@pytest.mark.parametrize("role", MAY_NOT)
def test_a_role_writes_nothing_beyond_its_list(shared: Database, role: str) -> None:
    """Every table there is, a new one of DBOS included: no TRUNCATE, REFERENCES or TRIGGER, no ownership."""
    rows = shared.rows(
        "SELECT t.oid::regclass::text AS place, t.relowner::regrole::text AS owner, p.name AS right"
        " FROM pg_class t CROSS JOIN (VALUES ('INSERT'), ('UPDATE'), ('DELETE'), ('TRUNCATE'),"
        " ('REFERENCES'), ('TRIGGER')) AS p (name)"
        " WHERE t.relnamespace IN ('dbos'::regnamespace, 'ops'::regnamespace)"
        " AND t.relkind IN ('r', 'v', 'p')"
        " AND has_table_privilege(%(role)s, t.oid, p.name)",
        role=role,
    )
    assert {row["owner"] for row in rows} <= {"holdfast_owner"}
    assert not {row["right"] for row in rows} & {"TRUNCATE", "REFERENCES", "TRIGGER"}
    written = {row["place"] for row in rows}
    deleted = {row["place"] for row in rows if row["right"] == "DELETE"}
    if role == METRICS_USER:
        assert written == set()
    if role == "holdfast_api":
        assert deleted == {"ops.crashes", "ops.revoked", "ops.waits"}
    assert not written & {"ops.migrations", "ops.totals", "ops.totals_until", "ops.countable"}
    assert not written & {"dbos.dbos_migrations", "dbos.dbos_datasource_migrations"}


PARTS = {
    "dbos.workflow_input": "(workflow_uuid) VALUES ('w-1')",
    "dbos.workflow_output": "(workflow_uuid) VALUES ('w-1')",
    "dbos.operation_outputs": "(workflow_uuid, function_id, function_name) VALUES ('w-1', 1, 's')",
    "dbos.workflow_events": "(workflow_uuid, key, value) VALUES ('w-1', 'k', '1')",
    "dbos.workflow_events_history": "(workflow_uuid, function_id, key, value) VALUES ('w-1', 1, 'k', '1')",
    "dbos.streams": "(workflow_uuid, key, value, \"offset\", function_id) VALUES ('w-1', 'k', '1', 0, 1)",
    "dbos.notifications": "(destination_uuid, message) VALUES ('w-1', '1')",
}


@pytest.mark.parametrize("status", ["PENDING", "ENQUEUED", "DELAYED", "SUCCESS", "ERROR", "CANCELLED"])
def test_nothing_of_unfinished_work_is_deleted(shared: Database, status: str) -> None:
    """A trigger refuses, so that also binds the roles that may delete, and their mistakes."""
    with closing(shared.admin()) as connection, connection.cursor() as cursor:
        connection.autocommit = False
        columns = "(workflow_uuid, status, name, created_at, updated_at, recovery_attempts, priority)"
        cursor.execute(
            f"INSERT INTO dbos.workflow_status {columns} VALUES ('w-1', %s, 'n', 1, 1, 0, 0)", (status,)
        )
        for table, values in PARTS.items():
            cursor.execute(f"INSERT INTO {table} {values}")
            cursor.execute("SAVEPOINT s")
            deletion = f"DELETE FROM {table} t WHERE t::text LIKE '%w-1%'"
            if status in ("PENDING", "ENQUEUED", "DELAYED"):
                with pytest.raises(
                    psycopg2.errors.RestrictViolation, match="w-1: unfinished work is not deleted"
                ):
                    cursor.execute(deletion)
                cursor.execute("ROLLBACK TO s")
            else:
                cursor.execute(deletion)
                assert cursor.rowcount == 1
            cursor.execute("RELEASE s")
        connection.rollback()


def test_every_table_with_parts_of_work_is_protected(shared: Database) -> None:
    """A new table of DBOS, too. It deletes the markers of its datasource while their workflow still runs."""
    rows = shared.rows(
        "SELECT DISTINCT a.attrelid::regclass::text AS name FROM pg_attribute a JOIN pg_class c"
        " ON c.oid = a.attrelid WHERE c.relkind = 'r' AND c.relnamespace = 'dbos'::regnamespace"
        " AND a.attname IN ('workflow_uuid', 'workflow_id', 'destination_uuid')"
    )
    assert {row["name"] for row in rows} - {"dbos.workflow_status", "dbos.datasource_outputs"} == set(PARTS)


def test_the_functions_with_their_owners_rights_have_a_fixed_search_path(shared: Database) -> None:
    assert shared.rows(
        "SELECT p.oid::regproc::text AS name, p.proconfig AS settings FROM pg_proc p WHERE p.prosecdef"
        " AND p.pronamespace IN ('dbos'::regnamespace, 'ops'::regnamespace) ORDER BY 1"
    ) == [
        {"name": f"ops.{name}", "settings": ["search_path=pg_catalog, pg_temp"]}
        for name in (
            "delete_ended",
            "end_scheduled_run",
            "end_sessions",
            "fire_tick",
            "fold_ended",
            "fold_totals",
            "forget_deleted",
            "keep_ticks_known",
            "note_schedule",
            "notify_cancelled",
            "notify_done",
            "reopen",
            "resume_scheduled_run",
            "stranded_work",
        )
    ]


@pytest.mark.parametrize("role", ["holdfast_api", "holdfast_worker"])
def test_a_role_deletes_by_the_function_only_what_has_ended(shared: Database, role: str) -> None:
    """Of unfinished work, and of its child, no input, no result and no step goes."""
    mine = {"application_name": "holdfast-worker"}
    for status in UNFINISHED:
        insert(shared, [status], status=status, **mine)
        insert(shared, [f"{status}-child"], status="SUCCESS", parent_workflow_id=status, **mine)
    kept = [each for status in UNFINISHED for each in (status, f"{status}-child")]
    insert(shared, ["ended"], status="ERROR", **mine)
    for workflow_id in [*kept, "ended"]:
        record_steps(shared, workflow_id, 1)
        for table in ("workflow_input", "workflow_output"):
            shared.rows(f"INSERT INTO dbos.{table} (workflow_uuid) VALUES (%(id)s)", id=workflow_id)
    with closing(login(shared, role)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT ops.delete_ended(%s) AS id", [[*kept, "ended", "never"]])
        assert [row["id"] for row in cursor.fetchall()] == ["ended"]
    for table in ("workflow_status", "workflow_input", "workflow_output", "operation_outputs"):
        rows = shared.rows(f"SELECT workflow_uuid AS id FROM dbos.{table} WHERE workflow_uuid <> 'w'")
        assert sorted(row["id"] for row in rows) == sorted(kept), table
    # Either role may end any work, and with this delete it.
    with closing(login(shared, role)) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE dbos.workflow_status SET status = 'CANCELLED' WHERE workflow_uuid = 'PENDING'")
        cursor.execute("SELECT ops.delete_ended('{PENDING,PENDING-child}') AS id")
        assert {row["id"] for row in cursor.fetchall()} == {"PENDING", "PENDING-child"}
    reset = "SET session_replication_role = replica; DELETE FROM dbos"
    for table in ("workflow_status", "workflow_input", "workflow_output", "operation_outputs"):
        shared.rows(f"{reset}.{table} WHERE workflow_uuid <> 'w'; RESET ALL")


def test_no_role_has_power_over_the_server(shared: Database) -> None:
    rows = shared.rows(
        "SELECT rolname, rolcanlogin, rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication"
        " OR rolbypassrls AS mighty, rolconnlimit, (SELECT rolpassword FROM pg_authid a WHERE a.oid = r.oid)"
        " AS verifier FROM pg_roles r WHERE rolname LIKE 'holdfast%'"
        " AND NOT starts_with(rolname, 'holdfast_app_')"
    )
    assert {row["rolname"] for row in rows} >= {"holdfast_owner", "holdfast_apps", *CONSUMER}
    for row in rows:
        assert not row["mighty"], row["rolname"]
        if row["rolname"] in ("holdfast_owner", "holdfast_apps"):
            assert not row["rolcanlogin"] and row["verifier"] is None
        else:
            assert row["verifier"].startswith("SCRAM-SHA-256$")
            assert row["rolconnlimit"] == LIMITS[row["rolname"]]
    members = shared.rows(
        "SELECT member::regrole::text AS member, roleid::regrole::text AS of FROM pg_auth_members"
        " WHERE member::regrole::text LIKE 'holdfast%'"
        " AND NOT starts_with(member::regrole::text || roleid::regrole::text, 'holdfast_ownerholdfast_app_')"
        " AND NOT starts_with(member::regrole::text, 'holdfast_app_')"
    )
    assert {(row["member"], row["of"]) for row in members} == {
        ("holdfast_migrator", "holdfast_owner"),
        ("holdfast_owner", "holdfast_api"),
        ("holdfast_owner", "holdfast_worker"),
    }


@pytest.mark.parametrize("role", [*MAY_NOT])
def test_no_role_has_business_in_another_database(shared: Database, role: str) -> None:
    for name in ("postgres", "template1"):
        with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
            login(shared, role, name=name)
    # Of the database that roles.sql makes, which a test's copy does not tell.
    rights = ("CONNECT", "CREATE", "TEMP")
    held = [
        right
        for right in rights
        if shared.one(
            "SELECT has_database_privilege(%(role)s, 'holdfast', %(right)s)", role=role, right=right
        )
    ]
    assert held == ["CONNECT"]


@pytest.mark.parametrize("role", ["holdfast_owner", "postgres", "holdfast_worker", "nobody"])
def test_what_the_api_has_lets_nobody_else_in(shared: Database, role: str) -> None:
    """Its password file opens its own role and the one that reads figures, and nothing else."""
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(
            host="127.0.0.1",
            port=shared.server.cluster.port,
            user=role,
            dbname=shared.name,
            passfile=str(shared.server.secrets / "api" / "pgpass"),
        )
    with pytest.raises(psycopg2.OperationalError, match=r"password|permitted"):
        psycopg2.connect(
            host="127.0.0.1", port=shared.server.cluster.port, user=role, dbname=shared.name, password="wrong"
        )


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        (METRICS_USER, {"statement_timeout": "5s", "default_transaction_read_only": "on"}),
        (METRICS_USER, {"idle_in_transaction_session_timeout": "5s", "temp_file_limit": "100MB"}),
        ("holdfast_api", {"idle_in_transaction_session_timeout": "1min", "temp_file_limit": "2GB"}),
        ("holdfast_worker", {"idle_in_transaction_session_timeout": "1min", "temp_file_limit": "2GB"}),
        ("holdfast_migrator", {"lock_timeout": "1min", "role": "holdfast_owner"}),
    ],
)
def test_what_bounds_a_role(shared: Database, role: str, expected: dict[str, str]) -> None:
    with closing(login(shared, role)) as connection, connection.cursor() as cursor:
        for name, value in expected.items():
            cursor.execute(f"SHOW {name}")
            row: Any = cursor.fetchone()
            assert row[name] == value


def test_a_roles_connections_end_at_its_limit(shared: Database) -> None:
    with ExitStack() as stack:
        for _ in range(LIMITS[METRICS_USER]):
            stack.enter_context(closing(login(shared, METRICS_USER)))
        with pytest.raises(psycopg2.OperationalError, match="too many connections for role"):
            login(shared, METRICS_USER)
        login(shared, "holdfast_api").close()  # the others have their own


# --- the connections add up ---------------------------------------------------------------------------


@pytest.mark.parametrize(("role", "count"), [("api", 2), ("worker", WORKERS)])
def test_the_pools_fit_into_their_roles_limit(role: Role, count: int) -> None:
    """Two of the API's processes (one starts while the other drains), and so many workers."""
    needed = count * budget.max_connections(Settings(), role)
    assert needed <= LIMITS[f"holdfast_{role}"], f"{count} processes of {role} open {needed} connections"


def test_figures_fit_into_their_limit() -> None:
    assert LIMITS[METRICS_USER] >= 2 * budget.METRICS


def test_the_limits_fit_into_the_server() -> None:
    text = (ROOT / "postgres" / "postgresql.conf").read_text("utf-8")
    (allowed,) = re.findall(r"^max_connections = (\d+)", text, re.MULTILINE)
    reserved = 3  # superuser_reserved_connections, PostgreSQL's default
    assert set(CONSUMER) <= set(LIMITS), "a role that logs in has a limit"
    assert sum(LIMITS.values()) + reserved <= int(allowed)


def test_a_worker_opens_no_more_than_that(database: Database) -> None:
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'holdfast/%%'"
    count += " AND datname = current_database()"
    with worker_process(database) as process:
        wait_until(lambda: database.one("SELECT count(*) FROM ops.pulses"), "a pulse", seconds=15)
        opened = database.one(count)
        assert 5 <= opened <= budget.max_connections(process.settings, "worker")


# --- and are enough -------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["worker", "api"])
def test_what_a_process_must_be_able_to_do(shared: Database, role: str) -> None:
    cursor = shared.connect(role=role).cursor()
    for statement in (
        "INSERT INTO ops.crashes (workflow_id, crashes, steps_recorded) VALUES ('x', 1, 0)",
        "DELETE FROM ops.crashes",
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = current_user"
        " AND pid <> pg_backend_pid() AND datname = current_database()",
        "SELECT stats_reset FROM pg_stat_bgwriter",
        "SELECT count(*) FROM pg_locks",
    ):
        cursor.execute(statement)


def test_the_api_may_fork_from_a_later_step(database: Database) -> None:
    """Which copies the steps before it, with events and streams."""
    columns = {"name": names.NESTED_ROOT, "queue_name": None, "application_name": "holdfast-api"}
    insert(database, ["w"], status="SUCCESS", serialization="portable_json", **columns)
    database.rows(
        "INSERT INTO dbos.workflow_input (workflow_uuid, inputs)"
        """ VALUES ('w', '{"positionalArgs":[],"namedArgs":{}}')"""
    )
    record_steps(database, "w", 3)
    with serving(database.settings("api")) as api:
        forked = api.http.post("/workflows/w/fork", json={"start_step": 3})
        assert forked.status_code == 202, forked.text
        steps = api.http.get(f"/workflows/{forked.json()['workflow_id']}/steps").json()["steps"]
        assert len(steps) == 2


def test_one_role_ends_no_session_of_another(shared: Database) -> None:
    with closing(login(shared, "holdfast_worker")) as other:
        refused(shared, "holdfast_api", f"SELECT pg_terminate_backend({other.info.backend_pid})")


def test_a_role_ends_sessions_of_another_only_where_their_executor_is_dead(database: Database) -> None:
    worker = Peer.start(database, "worker-one")
    alike = Peer.start(database, "worker-on")
    with closing(login(database, "holdfast_api")) as api, api.cursor() as cursor:

        def ended() -> int:
            cursor.execute("SELECT ops.end_sessions('worker-one') AS ended")
            row: Any = cursor.fetchone()
            return int(row["ended"])

        assert ended() == 0
        cursor.execute("UPDATE ops.executors SET state = 'dead' WHERE executor_id = 'worker-one'")
        assert ended() == 1
    wait_until(lambda: not worker.locked(), "its session ends")
    assert alike.locked()


def test_figures_are_read_by_the_role_of_their_own(database: Database) -> None:
    settings = database.settings("api")
    pool = OpsPool(settings, purpose="holdfast/test/figures", size=1, wait_seconds=1, user=METRICS_USER)
    try:
        collector = DatabaseCollector(
            pool.run_all, applications=settings.application_names, late_seconds=65, lease_seconds=5
        )
        found = {family.name: family for family in collector.collect()}
        assert found["holdfast_database_up"].samples[0].value == 1
        assert len(found) > 8
        who = "SELECT usename FROM pg_stat_activity WHERE application_name = 'holdfast/test/figures'"
        assert database.one(who) == METRICS_USER
    finally:
        pool.close()


def test_the_gateway_reads_figures_as_that_role(database: Database) -> None:
    with serving(database.settings("api")) as api:
        gateway: Any = api.process.gateway
        assert gateway.metrics._user == METRICS_USER
        rows = asyncio.run(
            gateway.call(gateway.metrics.run_all, {"executors_by_state": {"lease_seconds": 5}})
        )
        assert rows == {"executors_by_state": []}


def test_what_a_role_can_still_do(database: Database) -> None:
    """docs/operate/security.md says it plainly: the applications share DBOS's tables."""
    insert(database, ["w"], name=names.FIBONACCI_NUMBER, application_name="holdfast-worker")
    with closing(login(database, "holdfast_api")) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE dbos.workflow_status SET status = 'CANCELLED' WHERE workflow_uuid = 'w'")
        assert cursor.rowcount == 1
