"""``holdfast migrate --database-url``: any database of DBOS, whatever its schema is called."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from dbos import DBOS, DBOSClient
from typer.testing import CliRunner

from holdfast.cli.main import app
from holdfast.dbos_adapter import preparing
from holdfast.dbos_adapter.preparing import OLDEST_DBOS, prepare_database
from holdfast.dbos_adapter.schema import dbos_migration_count
from holdfast.errors import DatabaseNotPrepared
from holdfast.postgres import statements
from tests.support.database import Server

_numbers = itertools.count()
_PASSWORD = "secret"


class Foreign:
    """A user's database, whose owner is no superuser."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.name = f"foreign_{next(_numbers)}"
        server.run(f"CREATE ROLE {self.name} LOGIN PASSWORD '{_PASSWORD}'")
        server.run(f"CREATE DATABASE {self.name} OWNER {self.name}")

    def url(self, user: str | None = None, scheme: str = "postgresql") -> str:
        address = f"127.0.0.1:{self.server.cluster.port}"
        return f"{scheme}://{user or self.name}:{_PASSWORD}@{address}/{self.name}"

    def rows(self, statement: str) -> list[Any]:
        with closing(self.server.admin(self.name)) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def drop(self) -> None:
        self.server.run(f"DROP DATABASE {self.name} WITH (FORCE)")
        self.server.run(f"DROP OWNED BY {self.name}; DROP ROLE {self.name}")


@pytest.fixture
def foreign(server: Server) -> Iterator[Foreign]:
    made = Foreign(server)
    yield made
    made.drop()


def refusal(url: str, **options: Any) -> str:
    with pytest.raises(DatabaseNotPrepared) as raised:
        prepare_database(url, **options)
    return raised.value.message


@pytest.mark.parametrize("schema", ["dbos", "Own-schema_2"])
def test_it_makes_both_schemas_and_then_changes_nothing(foreign: Foreign, schema: str) -> None:
    first = prepare_database(foreign.url(scheme="postgresql+psycopg"), schema=schema)
    assert first.created_dbos
    assert first.ran[0] == "001_ops.sql"
    second = prepare_database(foreign.url(), schema=schema)
    assert not second.created_dbos
    assert second.ran == []
    assert second.dbos_version == first.dbos_version == dbos_migration_count()
    triggers = foreign.rows(
        "SELECT DISTINCT n.nspname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE t.tgname LIKE 'holdfast%'"
    )
    assert {row["nspname"] for row in triggers} == {schema, "ops"}
    bodies = foreign.rows("SELECT prosrc FROM pg_proc WHERE pronamespace = 'ops'::regnamespace")
    assert all(("dbos." in row["prosrc"]) <= (schema == "dbos") for row in bodies)


def test_what_dbos_does_in_its_own_schema_runs_the_triggers(foreign: Foreign) -> None:
    """Functions of ops find DBOS's tables under the name that the application chose."""
    DBOS.migrate(foreign.url(), schema="shop")
    foreign.rows(
        "INSERT INTO shop.application_versions (version_id, version_name, application_name)"
        " VALUES ('1', 'a', 'storefront')"
    )
    assert prepare_database(foreign.url(), schema="shop").applications == ["storefront"]
    foreign.rows(
        "INSERT INTO shop.workflow_status (workflow_uuid, status, name, application_name)"
        " VALUES ('w', 'SUCCESS', 'n', 'storefront'), ('u', 'PENDING', 'n', 'storefront')"
    )
    client = DBOSClient(
        system_database_url=foreign.url(), dbos_system_schema="shop", application_name="storefront"
    )
    try:
        client.delete_workflow("w")
    finally:
        client.destroy()
    assert foreign.rows("SELECT name, value FROM ops.totals") == [{"name": "purged", "value": 1.0}]
    with pytest.raises(psycopg2.errors.RestrictViolation, match="unfinished work is not deleted"):
        foreign.rows("DELETE FROM shop.workflow_status WHERE workflow_uuid = 'u'")


def test_the_statements_of_a_process_name_its_schema(foreign: Foreign) -> None:
    prepare_database(foreign.url(), schema="shop")
    before = statements.sql("own_work")
    assert before == statements._statements()["own_work"]
    statements.use_schema("shop")
    try:
        with closing(psycopg2.connect(foreign.url())) as connection, connection.cursor() as cursor:
            for name in (
                "own_work",
                "unfinished_work",
                "release_work",
                "orphans",
                "publish_waits",
                "stranded",
            ):
                text = statements.sql(name)
                assert "dbos." not in text
                cursor.execute(text, _Nothing())
                connection.rollback()
    finally:
        statements.use_schema("dbos")
    assert statements.sql("own_work") == before


class _Nothing(dict[str, None]):
    def __getitem__(self, key: str) -> None:
        return None


@pytest.mark.parametrize("name", ['a"b', "", "ops", "x" * 64, "1x", "a.b", "public"])
def test_a_name_that_cannot_be_a_schema_is_refused(name: str) -> None:
    assert "cannot be the schema" in refusal("postgresql://x@127.0.0.1/x", schema=name)


def test_two_schemas_of_dbos_in_one_database(foreign: Foreign) -> None:
    prepare_database(foreign.url(), schema="shop")
    said = refusal(foreign.url(), schema="other")
    assert 'belongs to DBOS\'s schema "shop"' in said
    assert "a database of its own" in said
    assert not foreign.rows("SELECT FROM pg_namespace WHERE nspname = 'other'")


def test_a_database_that_cannot_be_reached(foreign: Foreign) -> None:
    assert "cannot be reached" in refusal("postgresql://x@127.0.0.1:1/x")
    assert "does not exist. Create it first" in refusal(foreign.url().rpartition("/")[0] + "/nowhere")
    assert "cannot be reached" in refusal(foreign.url().replace(_PASSWORD, "wrong"))
    assert "Holdfast needs PostgreSQL" in refusal("sqlite:///x.sqlite")
    assert "must begin with postgresql://" in refusal("mysql://x")


def test_rights_that_are_missing(foreign: Foreign) -> None:
    other = f"{foreign.name}_app"
    foreign.server.run(f"CREATE ROLE {other} LOGIN PASSWORD '{_PASSWORD}'")
    try:
        assert f'GRANT CREATE ON DATABASE "{foreign.name}" TO "{other}"' in refusal(foreign.url(other))
        DBOS.migrate(foreign.url())
        assert f'The role "{other}" may not read the schema "dbos"' in refusal(foreign.url(other))
        foreign.rows(
            f"GRANT USAGE ON SCHEMA dbos TO {other}; GRANT SELECT ON ALL TABLES IN SCHEMA dbos TO {other};"
            f"GRANT CREATE ON DATABASE {foreign.name} TO {other}"
        )
        assert f'GRANT {foreign.name} TO "{other}"' in refusal(foreign.url(other))
        prepare_database(foreign.url())
        assert f'ALTER SCHEMA ops OWNER TO "{other}"' in refusal(foreign.url(other))
    finally:
        foreign.rows(f"DROP OWNED BY {other}")
        foreign.server.run(f"DROP ROLE {other}")


def test_a_role_without_ddl_gets_what_an_application_needs(foreign: Foreign) -> None:
    other = f"{foreign.name}_app"
    foreign.server.run(f"CREATE ROLE {other} LOGIN PASSWORD '{_PASSWORD}'")
    try:
        prepare_database(foreign.url(), schema="shop", role=other)
        with closing(psycopg2.connect(foreign.url(other))) as connection, connection.cursor() as cursor:
            cursor.execute("INSERT INTO shop.workflow_status (workflow_uuid) VALUES ('w')")
            cursor.execute("INSERT INTO ops.waits (workflow_id, owner_xid, kind) VALUES ('w', 'x', 'sleep')")
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                cursor.execute("TRUNCATE shop.workflow_status")
        # An upgrade that does not name the role: it gets what is new, and keeps what else it has.
        foreign.rows(
            f"REVOKE ALL ON FUNCTION ops.fold_ended() FROM {other}; REVOKE ALL ON ops.waits FROM {other};"
            f"GRANT TRUNCATE ON shop.workflow_status TO {other}"
        )
        prepare_database(foreign.url(), schema="shop")
        with closing(psycopg2.connect(foreign.url(other))) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT ops.fold_ended(); DELETE FROM ops.waits")
            cursor.execute("SELECT has_table_privilege('shop.workflow_status', 'TRUNCATE')")
            assert cursor.fetchone() == (True,)
        assert 'no role "nobody"' in refusal(foreign.url(), schema="shop", role="nobody")
    finally:
        foreign.rows(f"DROP OWNED BY {other}")
        foreign.server.run(f"DROP ROLE {other}")


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        (OLDEST_DBOS - 1, "older than DBOS 3.0"),
        (dbos_migration_count() + 1, "Install the application's version of DBOS"),
    ],
)
def test_a_dbos_of_another_version(foreign: Foreign, version: int, sentence: str) -> None:
    DBOS.migrate(foreign.url())
    foreign.rows(f"UPDATE dbos.dbos_migrations SET version = {version}")
    assert sentence in refusal(foreign.url())
    assert not foreign.rows("SELECT FROM pg_namespace WHERE nspname = 'ops'")
    foreign.rows(f"UPDATE dbos.dbos_migrations SET version = {OLDEST_DBOS}")
    assert prepare_database(foreign.url()).dbos_version == OLDEST_DBOS


def test_an_ops_of_a_newer_holdfast_and_one_of_somebody_elses(foreign: Foreign) -> None:
    foreign.rows(f"CREATE SCHEMA ops AUTHORIZATION {foreign.name}; CREATE TABLE ops.mine (x int)")
    assert "not Holdfast's" in refusal(foreign.url())
    foreign.rows("DROP SCHEMA ops CASCADE")
    prepare_database(foreign.url())
    foreign.rows("INSERT INTO ops.migrations (name) VALUES ('999_later.sql')")
    assert "A newer Holdfast prepared this database (999_later.sql" in refusal(foreign.url())


def test_a_schema_of_something_else(foreign: Foreign) -> None:
    foreign.rows(f"CREATE SCHEMA shop AUTHORIZATION {foreign.name}; CREATE TABLE shop.orders (x int)")
    assert "none of them is DBOS's" in refusal(foreign.url(), schema="shop")


def test_several_at_once(foreign: Foreign) -> None:
    DBOS.migrate(foreign.url())
    ran: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: ran.append(prepare_database(foreign.url()).ran)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(len, ran))[:2] == [0, 0]
    assert max(map(len, ran)) > 0


def test_the_command(foreign: Foreign) -> None:
    words = ["migrate", "--database-url", foreign.url()]
    first = CliRunner().invoke(app, [*words, "--json"])
    assert first.exit_code == 0, first.output
    assert json.loads(first.output)["created_dbos"] is True
    again = CliRunner().invoke(app, ["migrate"], env={"DBOS_SYSTEM_DATABASE_URL": foreign.url()})
    assert again.exit_code == 0
    assert "ops: already up to date" in " ".join(again.output.split())
    refused = CliRunner().invoke(app, ["migrate", "--database-url", "sqlite:///x"])
    assert refused.exit_code == 1
    assert "Holdfast needs PostgreSQL" in refused.output
    assert preparing.OLDEST_DBOS
