"""Migrations: repeatable, concurrent, and what they let whom do."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources

import psycopg2
import pytest

from services.runtime import schema
from services.runtime.database import sql
from tests.support.database import Database, Server

_FILES = sorted(
    file.name
    for file in (resources.files("services.runtime.sql") / "migrations").iterdir()
    if file.name.endswith(".sql")
)


@pytest.fixture(scope="module")
def shared(server: Server) -> Iterator[Database]:
    """One database for tests that leave nothing behind."""
    made = Database.create(server)
    yield made
    made.drop()


def _forget(database: Database) -> None:
    """Back to what ``dbos migrate`` alone leaves."""
    database.rows(
        "DROP SCHEMA ops CASCADE; DROP TABLE dbos.datasource_outputs, dbos.dbos_datasource_migrations"
    )


def test_a_second_run_changes_nothing(database: Database) -> None:
    before = database.rows("SELECT * FROM ops.migrations")
    assert [row["name"] for row in before] == _FILES
    assert schema.migrate(database.settings("migrate")) == []
    assert database.rows("SELECT * FROM ops.migrations") == before


def test_two_at_once_from_nothing(database: Database) -> None:
    _forget(database)
    settings = database.settings("migrate")
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: schema.migrate(settings), range(3)))
    assert sorted(results) == [[], [], _FILES]
    assert database.one("SELECT count(*) FROM ops.migrations") == len(_FILES)
    triggers = database.rows("SELECT tgname FROM pg_trigger WHERE tgname LIKE 'holdfast%' ORDER BY 1")
    assert len(triggers) == 5


def test_a_migration_that_fails_leaves_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """One transaction each: the next run begins at the same place."""
    _forget(database)
    settings = database.settings("migrate")
    database.rows(
        "CREATE FUNCTION dbos.refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF tg_tag = 'CREATE TRIGGER' THEN RAISE EXCEPTION 'disk full'; END IF; END $$;"
        "CREATE EVENT TRIGGER refuse ON ddl_command_end EXECUTE FUNCTION dbos.refuse()"
    )
    with pytest.raises(psycopg2.Error, match="disk full"):
        schema.migrate(settings)
    assert database.one("SELECT count(*) FROM ops.migrations") == 0
    assert database.one("SELECT count(*) FROM pg_tables WHERE schemaname = 'ops'") == 1
    database.rows("DROP EVENT TRIGGER refuse")
    assert schema.migrate(settings) == _FILES


@pytest.mark.parametrize("role", ["worker", "api"])
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE ops.mine (x int)",
        "CREATE TABLE public.mine (x int)",
        "CREATE TABLE dbos.mine (x int)",
        "CREATE SCHEMA mine",
        "ALTER TABLE ops.executors ADD COLUMN x int",
        "DROP TABLE ops.effects",
        "TRUNCATE ops.effects",
        "DROP TRIGGER holdfast_claimed ON dbos.workflow_status",
        "ALTER TABLE dbos.workflow_status DISABLE TRIGGER ALL",
        "CREATE OR REPLACE FUNCTION ops.notify_queue() RETURNS trigger LANGUAGE sql AS ''",
        "CREATE ROLE mine",
        "SET ROLE holdfast_owner",
        "INSERT INTO ops.migrations (name) VALUES ('x')",
        "DELETE FROM ops.migrations",
        "UPDATE ops.effects SET n = 1",
        "DELETE FROM ops.effects",
        "DELETE FROM ops.handovers",
        "DELETE FROM ops.executors",
        "COPY ops.effects TO PROGRAM 'cat'",
    ],
)
def test_what_a_process_may_not_do(shared: Database, role: str, statement: str) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        shared.connect(role=role).cursor().execute(statement)


@pytest.mark.parametrize("role", ["worker", "api"])
def test_what_a_process_must_be_able_to_do(shared: Database, role: str) -> None:
    cursor = shared.connect(role=role).cursor()
    for statement in (
        "INSERT INTO ops.effects (workflow_id, effect_key, executor_id, n, sha256)"
        " VALUES ('w', 'k', 'e', 1, 's')",
        "INSERT INTO ops.crashes (workflow_id, crashes, steps_recorded) VALUES ('w', 1, 0)",
        "DELETE FROM ops.crashes",
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = current_user"
        " AND pid <> pg_backend_pid() AND datname = current_database()",
        "SELECT stats_reset FROM pg_stat_bgwriter",
        "SELECT count(*) FROM pg_locks",
    ):
        cursor.execute(statement)


def test_every_statement_is_valid_on_the_migrated_schema(database: Database) -> None:
    """A misspelt column would show only when its rare moment comes."""
    from services.runtime.database import _statements

    sql("look")
    connection = database.connect(role="worker")
    for name, text in _statements().items():
        cursor = connection.cursor()
        cursor.execute("BEGIN")
        try:
            cursor.execute(text, _Nothing())
        except (psycopg2.errors.DataError, psycopg2.errors.IntegrityError):
            pass  # NULL where a value belongs: the statement itself was understood
        except psycopg2.Error as error:
            raise AssertionError(f"{name}: {error}") from error
        finally:
            cursor.execute("ROLLBACK")


class _Nothing(dict[str, None]):
    def __getitem__(self, key: str) -> None:
        return None
