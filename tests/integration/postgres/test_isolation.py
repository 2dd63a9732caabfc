"""Rights of users' applications: what `app add` gives, and that one reaches no rows of another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest

from holdfast.installations.applications import role_of
from holdfast.installations.embedded import ROOT
from holdfast.installations.secrets import scram_verifier
from holdfast.postgres.database import Connection, query
from holdfast.postgres.statements import _statements, sql
from tests.support.database import Database, Server

_PASSWORD = "secret"
_NAMES = ("storefront", "billing")

_ROWS = """
INSERT INTO dbos.workflow_status
    (workflow_uuid, status, name, executor_id, application_name, application_version, owner_xid)
    VALUES (%(w)s, 'PENDING', 'n', %(e)s, %(a)s, %(a)s, 'x');
INSERT INTO dbos.workflow_input (workflow_uuid, inputs) VALUES (%(w)s, 'secret');
INSERT INTO dbos.workflow_output (workflow_uuid, output) VALUES (%(w)s, 'secret');
INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, function_name, application_name)
    VALUES (%(w)s, 1, 's', %(a)s);
INSERT INTO dbos.workflow_events (workflow_uuid, key, value) VALUES (%(w)s, 'k', 'v');
INSERT INTO dbos.workflow_events_history (workflow_uuid, function_id, key, value) VALUES (%(w)s, 1, 'k', 'v');
INSERT INTO dbos.streams (workflow_uuid, key, value, "offset", function_id) VALUES (%(w)s, 'k', 'v', 0, 1);
INSERT INTO dbos.notifications (destination_uuid, topic, message) VALUES (%(w)s, 't', 'm');
INSERT INTO dbos.queues (name, application_name) VALUES (%(q)s, %(a)s);
INSERT INTO dbos.application_versions (version_id, version_name, application_name)
    VALUES (%(a)s, %(a)s, %(a)s);
INSERT INTO ops.executors (executor_id, application, application_version, role, hostname, pid, port, slots)
    VALUES (%(e)s, %(a)s, '1', 'app', 'h', 1, 0, 0);
INSERT INTO ops.registrations (executor_id, serializer, workflows) VALUES (%(e)s, 's', '{}');
INSERT INTO ops.crashes (workflow_id, crashes, steps_recorded) VALUES (%(w)s, 1, 0);
INSERT INTO ops.waits (workflow_id, owner_xid, kind) VALUES (%(w)s, 'x', 'sleep');
INSERT INTO ops.handovers (workflow_id, workflow_name, kind, reason, from_executor, released_by, lost_at)
    VALUES (%(w)s, 'n', 'takeover', 'r', %(e)s, %(e)s, now());
"""
"""One workflow and all that belongs to it."""


class Applications:
    """A database with two applications that `app add` made, each with one workflow."""

    def __init__(self, database: Database) -> None:
        self.database = database
        script = (ROOT / "postgres" / "application.sql").read_text("utf-8")
        verifier = scram_verifier(_PASSWORD, b"salt" * 4)
        for name in _NAMES:
            database.server.psql(database.name, f"\\set name {name}\n\\set verifier '{verifier}'\n{script}")
            database.rows(_ROWS, w=f"w-{name}", e=f"e-{name}", q=f"q-{name}", a=name)

    def login(self, name: str) -> Connection:
        connection: Connection = psycopg2.connect(
            host="127.0.0.1",
            port=self.database.server.cluster.port,
            user=role_of(name),
            password=_PASSWORD,
            dbname=self.database.name,
            cursor_factory=psycopg2.extras.RealDictCursor,
        )
        connection.autocommit = True
        return connection


@pytest.fixture(scope="module")
def applications(server: Server) -> Iterator[Applications]:
    with Database.lent(server) as database:
        yield Applications(database)


_TABLES = {
    "dbos.workflow_status": "workflow_uuid",
    "dbos.workflow_input": "workflow_uuid",
    "dbos.workflow_output": "workflow_uuid",
    "dbos.operation_outputs": "workflow_uuid",
    "dbos.workflow_events": "workflow_uuid",
    "dbos.workflow_events_history": "workflow_uuid",
    "dbos.streams": "workflow_uuid",
    "dbos.notifications": "destination_uuid",
    "dbos.application_versions": "application_name",
    "ops.executors": "application",
    "ops.registrations": "executor_id",
    "ops.handovers": "workflow_id",
    "ops.crashes": "workflow_id",
    "ops.waits": "workflow_id",
}


@pytest.mark.parametrize("table", [*_TABLES, "ops.applications"])
def test_an_application_reads_its_own_rows_alone(applications: Applications, table: str) -> None:
    column = _TABLES.get(table, "name")
    with closing(applications.login("storefront")) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT DISTINCT {column} AS found FROM {table}")
        found = [row["found"] for row in cursor.fetchall()]
    assert len(found) == 1
    assert found[0].endswith("storefront")
    everything = applications.database.one(f"SELECT count(DISTINCT {column}) FROM {table}")
    assert everything >= 2, "there are others to be kept from"


@pytest.mark.parametrize("table", _TABLES)
def test_an_application_changes_and_deletes_no_row_of_another(applications: Applications, table: str) -> None:
    column = _TABLES[table]
    other = "billing" if "application" in column else "e-billing" if column == "executor_id" else "w-billing"
    may_delete = table not in ("ops.executors", "ops.handovers", "ops.registrations")
    with closing(applications.login("storefront")) as connection, connection.cursor() as cursor:
        cursor.execute(f"UPDATE {table} SET {column} = {column} WHERE {column} = %s", (other,))
        assert cursor.rowcount == 0
        if may_delete:
            cursor.execute(f"DELETE FROM {table} WHERE {column} = %s", (other,))
            assert cursor.rowcount == 0


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO dbos.workflow_status (workflow_uuid, application_name) VALUES ('mine', 'billing')",
        "UPDATE dbos.workflow_status SET application_name = 'billing' WHERE workflow_uuid = 'w-storefront'",
        "INSERT INTO dbos.workflow_input (workflow_uuid, inputs) VALUES ('not-there-yet', 'x')",
        "INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, function_name, application_name)"
        " VALUES ('w-billing', 2, 's', 'billing')",
        "INSERT INTO dbos.notifications (destination_uuid, topic, message) VALUES ('w-billing', 't', 'm')",
        "INSERT INTO dbos.workflow_events (workflow_uuid, key, value) VALUES ('w-billing', 'mine', 'v')",
        "INSERT INTO dbos.queues (name, application_name) VALUES ('q2', 'billing')",
        "INSERT INTO ops.executors (executor_id, application, application_version, role, hostname, pid, port,"
        " slots) VALUES ('mine', 'billing', '1', 'app', 'h', 1, 0, 0)",
        "INSERT INTO ops.waits (workflow_id, owner_xid, kind) VALUES ('w-billing-2', 'x', 'sleep')",
        "INSERT INTO ops.applications (name, kind, added_by) VALUES ('third', 'user', 'attach')",
        "TRUNCATE dbos.workflow_status",
        "CREATE TABLE dbos.mine (x int)",
        "CREATE TABLE ops.mine (x int)",
        "CREATE SCHEMA mine",
        "CREATE ROLE mine",
        "SET ROLE holdfast_apps",
        "SET ROLE holdfast_app_billing",
        "SET ROLE holdfast_owner",
        "ALTER TABLE dbos.workflow_status DISABLE ROW LEVEL SECURITY",
        "DROP POLICY holdfast_own_all ON dbos.workflow_status",
        "ALTER ROLE holdfast_app_billing RENAME TO mine",
        "ALTER ROLE holdfast_app_storefront BYPASSRLS",
        "SELECT * FROM billing.orders",
        "SELECT ops.fire_tick('t', 's', now(), 'w', NULL, 'q', 'billing', '1', '[]')",
        "UPDATE ops.applications SET kind = 'stack'",
        "DELETE FROM ops.executors",
        "SELECT * FROM ops.requests",
        "UPDATE dbos.dbos_migrations SET version = 0",
        "SELECT rolpassword FROM pg_authid",
        "COPY ops.executors TO PROGRAM 'cat'",
    ],
)
def test_what_an_application_may_not_do(applications: Applications, statement: str) -> None:
    applications.database.rows("CREATE TABLE IF NOT EXISTS billing.orders (x int)")
    with (
        closing(applications.login("storefront")) as connection,
        connection.cursor() as cursor,
        pytest.raises(psycopg2.errors.InsufficientPrivilege),
    ):
        cursor.execute(statement)


def test_an_application_has_a_place_for_its_own_tables(applications: Applications) -> None:
    with closing(applications.login("storefront")) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE orders (x int)")
        cursor.execute(
            "SELECT relnamespace::regnamespace::text AS place FROM pg_class WHERE oid = 'orders'::regclass"
        )
        assert [row["place"] for row in cursor.fetchall()] == ["storefront"]
        cursor.execute("DROP TABLE orders")


_ATTACHED = ("executors", "takeover", "waits", "trips", "registrations")
"""Lease, sweep, takeover, drain, waits and poison."""


def test_an_application_may_run_what_attaching_runs(applications: Applications) -> None:
    names = [
        name
        for name in _statements()
        if name not in ("record_effect", "end_sessions_of_another_role")
        and any(f"-- name: {name}\n" in text for text in _files(_ATTACHED))
    ]
    assert len(names) > 25
    with closing(applications.login("storefront")) as connection:
        for name in [*names, "note_attached", "applications"]:
            cursor = connection.cursor()
            cursor.execute("BEGIN")
            try:
                cursor.execute(sql(name), _Nothing())
            except (psycopg2.errors.DataError, psycopg2.errors.IntegrityError):
                pass  # NULL where a value belongs: the rights were enough
            except psycopg2.errors.InsufficientPrivilege as error:
                # Of a row without an application's name, which a policy refuses; not of the table.
                assert "row-level security" in str(error), f"{name}: {error}"
            finally:
                cursor.execute("ROLLBACK")


def _files(names: tuple[str, ...]) -> list[str]:
    return [p.read_text("utf-8") for p in (ROOT / "holdfast").glob("*/sql/*.sql") if p.stem in names]


class _Nothing(dict[str, None]):
    def __getitem__(self, key: str) -> None:
        return None


def test_its_lease_and_takeover_work_on_its_own_work(applications: Applications) -> None:
    with closing(applications.login("storefront")) as connection:
        assert [row["executor_id"] for row in query(connection, "look")] == ["e-storefront"]
        work = query(
            connection,
            "unfinished_work",
            executor_id="e-storefront",
            application="storefront",
            version="storefront",
            only=None,
            only_waiting=False,
        )
        assert [row["workflow_id"] for row in work] == ["w-storefront"]
        foreign = query(
            connection,
            "unfinished_work",
            executor_id="e-billing",
            application="billing",
            version="billing",
            only=None,
            only_waiting=False,
        )
        assert foreign == []


@pytest.mark.parametrize("role", ["api", "worker"])
def test_the_stack_sees_every_application(applications: Applications, role: str) -> None:
    cursor = applications.database.connect(role=role).cursor()
    cursor.execute("SELECT count(*) AS found FROM dbos.workflow_input")
    assert [dict(row) for row in cursor.fetchall()] == [{"found": 2}]
