"""Rights of users' applications: what `app add` gives, and that one reaches no rows of another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from dbos import DBOSClient
from dbos._error import DBOSException, DBOSNonExistentWorkflowError

from holdfast.dbos_adapter import schema
from holdfast.dbos_adapter.serializer import json_serializer
from holdfast.installations.application_names import role_of
from holdfast.installations.embedded import ROOT
from holdfast.installations.secrets import scram_verifier
from holdfast.postgres.database import Connection, query
from holdfast.postgres.statements import _statements, sql
from tests.support.database import Database, Server

_PASSWORD = "secret"
_NAMES = ("storefront", "billing")
_NOBODYS = "w-nobodys"
"""A workflow without an application, as a client that named none leaves it in a database from before."""

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
INSERT INTO dbos.datasource_outputs (workflow_id, step_id, output) VALUES (%(w)s, 1, 'secret');
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
        database.rows(
            "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, queue_name)"
            " VALUES (%(w)s, 'ENQUEUED', 'n', 'q-billing');"
            "INSERT INTO dbos.workflow_input (workflow_uuid, inputs) VALUES (%(w)s, 'x')",
            w=_NOBODYS,
        )

    def url(self, name: str) -> str:
        port = self.database.server.cluster.port
        return f"postgresql://{role_of(name)}:{_PASSWORD}@127.0.0.1:{port}/{self.database.name}"

    def login(self, name: str) -> Connection:
        connection: Connection = psycopg2.connect(
            self.url(name), cursor_factory=psycopg2.extras.RealDictCursor
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
    "dbos.datasource_outputs": "workflow_id",
    "dbos.application_versions": "application_name",
    "ops.executors": "application",
    "ops.registrations": "executor_id",
    "ops.handovers": "workflow_id",
    "ops.crashes": "workflow_id",
    "ops.waits": "workflow_id",
}


# A version's name is unique in the database: DBOS reads whose it is.
@pytest.mark.parametrize("table", [*(_TABLES.keys() - {"dbos.application_versions"}), "ops.applications"])
def test_an_application_reads_its_own_rows_alone(applications: Applications, table: str) -> None:
    column = _TABLES.get(table, "name")
    with closing(applications.login("storefront")) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT DISTINCT {column} AS found FROM {table}")
        found = [row["found"] for row in cursor.fetchall() if row["found"] != _NOBODYS]
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
        "INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, function_name)"
        " VALUES ('w-billing', 2, 's')",
        "INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, function_name)"
        " VALUES ('w-nobodys', 1, 's')",
        "UPDATE dbos.operation_outputs SET workflow_uuid = 'w-billing', function_id = 9",
        "INSERT INTO dbos.workflow_events (workflow_uuid, key, value) VALUES ('w-billing', 'mine', 'v')",
        "INSERT INTO dbos.workflow_events (workflow_uuid, key, value) VALUES ('w-nobodys', 'mine', 'v')",
        "UPDATE dbos.workflow_input SET inputs = 'mine' WHERE workflow_uuid = 'w-nobodys'",
        "INSERT INTO dbos.datasource_outputs (workflow_id, step_id) VALUES ('w-billing', 2)",
        "INSERT INTO dbos.workflow_schedules (schedule_id, schedule_name, workflow_name, schedule, context,"
        " application_name) VALUES ('mine', 'mine', 'n', '* * * * *', 'x', 'billing')",
        "SELECT * FROM dbos.event_dispatch_kv",
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
        "DROP POLICY holdfast_everybody ON dbos.workflow_status",
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


_UNNAMED = {
    "workflow_status": "(workflow_uuid, status, queue_name, serialization)"
    " VALUES ('planted', 'ENQUEUED', 'q-billing', 'py_pickle')",
    "operation_outputs": "(workflow_uuid, function_id, function_name) VALUES ('w-storefront', 7, 's')",
    "workflow_schedules": "(schedule_id, schedule_name, workflow_name, schedule, context)"
    " VALUES ('planted', 'planted', 'n', '* * * * *', 'x')",
    "queues": "(name) VALUES ('planted')",
    "application_versions": "(version_id, version_name) VALUES ('planted', 'planted')",
}
"""Every table of DBOS with the column application_name. Others would take such rows for theirs."""


def test_these_are_all_tables_whose_rows_can_be_everybodys(applications: Applications) -> None:
    found = applications.database.rows(
        "SELECT c.relname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
        " WHERE a.attname = 'application_name' AND c.relnamespace = 'dbos'::regnamespace AND c.relkind = 'r'"
    )
    assert {row["relname"] for row in found} == _UNNAMED.keys()


@pytest.mark.parametrize("table", _UNNAMED)
def test_a_row_that_names_no_application_is_its_writers(applications: Applications, table: str) -> None:
    with closing(applications.login("storefront")) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(
            f"INSERT INTO dbos.{table} {_UNNAMED[table]} RETURNING application_name AS owner, ctid"
        )
        (row,) = cursor.fetchall()
        assert row["owner"] == "storefront"
        cursor.execute(
            f"UPDATE dbos.{table} SET application_name = NULL WHERE ctid = %s"
            " RETURNING application_name AS owner",
            (row["ctid"],),
        )
        assert [row["owner"] for row in cursor.fetchall()] == ["storefront"]
        cursor.execute("ROLLBACK")


def test_what_it_changes_of_a_row_of_nobody_becomes_its_own(applications: Applications) -> None:
    with closing(applications.login("storefront")) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(
            "UPDATE dbos.workflow_status SET status = 'PENDING' WHERE workflow_uuid = %s"
            " RETURNING application_name",
            (_NOBODYS,),
        )
        assert [row["application_name"] for row in cursor.fetchall()] == ["storefront"]
        cursor.execute("UPDATE dbos.workflow_input SET inputs = 'mine' WHERE workflow_uuid = %s", (_NOBODYS,))
        cursor.execute("ROLLBACK")


def test_the_stacks_own_rows_may_name_no_application(applications: Applications) -> None:
    cursor = applications.database.connect(role="worker").cursor()
    cursor.execute("BEGIN")
    cursor.execute(
        f"INSERT INTO dbos.workflow_status {_UNNAMED['workflow_status']} RETURNING application_name AS owner"
    )
    assert [row["owner"] for row in cursor.fetchall()] == [None]
    cursor.execute("ROLLBACK")


@pytest.fixture
def clients(applications: Applications) -> Iterator[dict[str, DBOSClient]]:
    """DBOS's own client of each application. They name no application."""
    # Whatever else ran in this process may have made DBOS refuse pickles.
    made = {
        name: DBOSClient(system_database_url=applications.url(name), serializer=json_serializer())
        for name in _NAMES
    }
    yield made
    for client in made.values():
        client.destroy()


def test_a_client_without_a_name_enqueues_for_its_role(
    applications: Applications, clients: dict[str, DBOSClient]
) -> None:
    client = clients["storefront"]
    handle: Any = client.enqueue({"queue_name": "q-storefront", "workflow_name": "n"}, 1)
    client.send(handle.workflow_id, "hello", "topic")
    owner = applications.database.one(
        "SELECT application_name FROM dbos.workflow_status WHERE workflow_uuid = %(w)s", w=handle.workflow_id
    )
    assert owner == "storefront"
    with pytest.raises(DBOSNonExistentWorkflowError):
        clients["billing"].retrieve_workflow(handle.workflow_id).get_status()
    client.cancel_workflow(handle.workflow_id)
    client.delete_workflow(handle.workflow_id)


@pytest.mark.parametrize("destination", ["not-there", "w-billing", _NOBODYS])
def test_a_message_to_a_workflow_that_is_not_there(clients: dict[str, DBOSClient], destination: str) -> None:
    with pytest.raises(DBOSNonExistentWorkflowError):
        clients["storefront"].send(destination, "hello", "topic")


def test_a_version_of_another_application_is_named_as_dbos_names_it(clients: dict[str, DBOSClient]) -> None:
    for _ in range(2):
        clients["storefront"]._sys_db.create_application_version("1.0", "storefront")
    with pytest.raises(DBOSException, match=r"'1\.0' is already registered by application 'storefront'"):
        clients["billing"]._sys_db.create_application_version("1.0", "billing")


_WITHOUT_POLICY = {
    "dbos.dbos_migrations": "DBOS reads at launch whether it fits; one number",
    "dbos.dbos_datasource_migrations": "the same",
    "ops.migrations": "Holdfast reads at launch whether it fits; names of files",
}


def test_every_table_that_an_application_reaches_has_a_policy(applications: Applications) -> None:
    found = applications.database.rows(
        "SELECT c.oid::regclass::text AS name, c.relrowsecurity AND EXISTS (SELECT FROM pg_policy p WHERE"
        " p.polrelid = c.oid AND NOT p.polpermissive AND p.polroles = ARRAY['holdfast_apps'::regrole::oid])"
        " AS guarded,"
        " has_table_privilege('holdfast_apps', c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE') AS writes"
        " FROM pg_class c WHERE c.relnamespace IN ('dbos'::regnamespace, 'ops'::regnamespace)"
        " AND c.relkind IN ('r', 'p', 'v', 'm') AND has_any_column_privilege('holdfast_apps', c.oid,"
        " 'SELECT, INSERT, UPDATE')"
    )
    assert len(found) > 15
    assert {row["name"] for row in found if not row["guarded"]} == _WITHOUT_POLICY.keys()
    assert not [row for row in found if row["writes"] and not row["guarded"]]


def test_a_policy_from_before_is_replaced(applications: Applications) -> None:
    database = applications.database
    every = "SELECT polrelid::regclass::text AS name, polname FROM pg_policy ORDER BY 1, 2"
    fresh = database.rows(every)
    database.rows(
        "CREATE POLICY holdfast_own_all ON dbos.application_versions AS RESTRICTIVE TO holdfast_apps"
        " USING (application_name IS NULL)"
    )
    schema.migrate(database.settings("migrate"))
    assert database.rows(every) == fresh


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
        # Those of the stack's own processes, and of operators.
        if name not in ("record_effect", "end_sessions_of_another_role", "stranded")
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
        assert [row["executor_id"] for row in query(connection, "poll_executors")] == ["e-storefront"]
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
    assert [dict(row) for row in cursor.fetchall()] == [{"found": 3}]
