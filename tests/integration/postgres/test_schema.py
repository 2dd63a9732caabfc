"""Migrations: repeatable, concurrent, and what they let whom do."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources

import psycopg2
import pytest

from holdfast.dbos_adapter import schema
from holdfast.dbos_adapter.schema import wait_until_prepared
from holdfast.postgres.statements import sql
from holdfast.retention.purger import TIDY
from tests.support.database import Database

_FILES = sorted(
    file.name
    for file in (resources.files("holdfast.postgres") / "sql" / "migrations").iterdir()
    if file.name.endswith(".sql")
)


# Statements that only one of them runs.
_ONLY = {
    "record_effect": "worker",
    **dict.fromkeys(("claim_request", "release_request", "reopen"), "api"),
    **dict.fromkeys(("fire_tick", "set_schedule_rules", "account_ticks"), "worker"),
    "settle_forgotten_schedules": "worker",
    **dict.fromkeys(("record_pulse", "purge_begin", "purge_end"), "worker"),
    **dict.fromkeys(TIDY, "worker"),
    **dict.fromkeys(("begin_operation", "replace_resume", "claim_operation", "advance_operation"), "api"),
    **dict.fromkeys(("add_application", "add_known_applications", "note_attached"), "migrate"),
    "remove_application": "migrate",
}


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
    assert len(triggers) == 26


def test_a_migration_that_fails_leaves_nothing(database: Database) -> None:
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


def test_a_migration_waits_for_a_table_no_longer_than_its_role_may(database: Database) -> None:
    """Everyone who wants that table waits behind it."""
    told = "SELECT unnest(setconfig) FROM pg_db_role_setting WHERE setrole = 'holdfast_migrator'::regrole"
    assert {"unnest": "lock_timeout=60s"} in database.rows(told)
    _forget(database)
    database.rows(
        "CREATE FUNCTION dbos.tell() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN IF tg_tag"
        " = 'CREATE TRIGGER' THEN RAISE EXCEPTION 'waits %', current_setting('lock_timeout'); END IF; END $$;"
        "CREATE EVENT TRIGGER tell ON ddl_command_end EXECUTE FUNCTION dbos.tell()"
    )
    with pytest.raises(psycopg2.Error, match="waits 1min"):
        schema.migrate(database.settings("migrate"))


# Back by one migration, and forth.
_STEPS = {
    "DBOS": [f"UPDATE dbos.dbos_migrations SET version = version {by}" for by in ("- 1", "+ 1")],
    "its datasource": [
        f"UPDATE dbos.dbos_datasource_migrations SET version = version {by}" for by in ("- 1", "+ 1")
    ],
    _FILES[-1]: [
        f"DELETE FROM ops.migrations WHERE name = '{_FILES[-1]}'",
        f"INSERT INTO ops.migrations (name) VALUES ('{_FILES[-1]}')",
    ],
}


def _wait(database: Database, role: str, seconds: float, give_up: Callable[[], bool] = lambda: False) -> None:
    settings = database.settings(role, database_wait_seconds=seconds)
    wait_until_prepared(settings, purpose="start", give_up=give_up)


@pytest.mark.parametrize("role", ["worker", "api"])
@pytest.mark.parametrize("lacks", _STEPS)
def test_a_start_waits_for_each_migration_of_its_code(database: Database, role: str, lacks: str) -> None:
    """Else new code works on old tables, or ends at once, and Swarm rolls the update back."""
    back, forth = _STEPS[lacks]
    database.rows(back)
    with pytest.raises(psycopg2.Error, match=f"lacks .*{lacks}.*`migrate` has to run"):
        _wait(database, role, 0)

    def migrated_meanwhile() -> bool:
        database.rows(forth)
        return False

    _wait(database, role, 30, migrated_meanwhile)


def test_a_start_does_not_wait_for_a_newer_database_to_become_older(database: Database) -> None:
    database.rows(
        "UPDATE dbos.dbos_migrations SET version = version + 1;"
        "UPDATE dbos.dbos_datasource_migrations SET version = version + 1;"
        "INSERT INTO ops.migrations (name) VALUES ('999_later.sql')"
    )
    _wait(database, "worker", 0)


@pytest.mark.parametrize("role", ["worker", "api", "migrate"])
def test_every_statement_is_valid_on_the_migrated_schema(database: Database, role: str) -> None:
    """A misspelt column, or a right that is missing, would show only when its rare moment comes."""
    from holdfast.postgres.statements import _statements

    sql("poll_executors")
    connection = database.connect(role=role)
    for name, text in _statements().items():
        if _ONLY.get(name, role) != role:
            continue
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
