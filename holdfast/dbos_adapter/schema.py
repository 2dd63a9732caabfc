"""Prepares a Holdfast database beyond DBOS's own tables: the ``ops`` schema and rights.

Runs as ``python -m holdfast.dbos_adapter.schema`` after ``dbos migrate`` (dbos-config.yaml names it there).
No other part of Holdfast runs DDL.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any
from urllib.parse import urlsplit

import psycopg2
from dbos import SQLAlchemyDatasource
from dbos._datasource_migration import get_postgres_datasource_migrations
from dbos._migration import get_dbos_migrations

from holdfast.postgres.database import Connection, connect, query, transaction
from holdfast.settings import Settings, get_settings

log = logging.getLogger("holdfast.schema")

_MIGRATION_LOCK = 7031


def migrate(settings: Settings) -> list[str]:
    """Brings the ``ops`` schema up to date and returns the names of the migrations that ran.

    Safe to run twice, and concurrently: the second run waits for the first. Raises ``psycopg2.Error`` when
    the role may not create schemas or a statement fails. Each migration is one transaction.
    """
    # This creates the datasource's marker table for the effect ledger. DBOS owns its shape.
    SQLAlchemyDatasource.migrate(sqlalchemy_url(settings.database_url), schema="dbos")
    folder = resources.files("holdfast.postgres") / "sql"
    connection = connect(settings, purpose="migrate", statement_timeout_seconds=300)
    try:
        cursor = connection.cursor()
        cursor.execute("SELECT pg_advisory_lock(%s, 0)", (_MIGRATION_LOCK,))
        # This is the value of roles.sql, which the connection's own options override. A change of a table
        # that waits for its lock blocks all sessions behind it. Only migrations wait for the lock above.
        cursor.execute("SET lock_timeout TO '60s'")
        cursor.execute("CREATE SCHEMA IF NOT EXISTS ops")
        cursor.execute(
            "CREATE TABLE IF NOT EXISTS ops.migrations "
            "(name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
        cursor.execute("SELECT name FROM ops.migrations")
        rows: list[Any] = cursor.fetchall()  # the cursor factory makes them dicts
        known = {row["name"] for row in rows}
        ran = []
        for file in _files():
            if file.name in known:
                continue
            with transaction(connection):
                cursor.execute(file.read_text("utf-8"))
                cursor.execute("INSERT INTO ops.migrations (name) VALUES (%s)", (file.name,))
            ran.append(file.name)
        cursor.execute((folder / "grants.sql").read_text("utf-8"))
        for name in settings.application_names:
            query(
                connection, "add_application", name=name, kind="stack", added_by="migrate", database_role=None
            )
        query(connection, "add_known_applications")
        return ran
    finally:
        connection.close()


def wait_until_prepared(settings: Settings, *, purpose: str, give_up: Callable[[], bool]) -> None:
    """Waits until the database is migrated for this code, at most ``database_wait_seconds``. Logs the wait.

    Raises the last ``psycopg2.Error`` when the time is over or ``give_up`` returns True.
    """
    deadline = time.monotonic() + settings.database_wait_seconds
    while True:
        try:
            connection = connect(settings, purpose=purpose)
            try:
                if lacks := lacking(connection):
                    raise psycopg2.OperationalError(f"the database lacks {lacks}: `migrate` has to run")
                return
            finally:
                connection.close()
        except psycopg2.Error as error:
            text = str(error).strip().splitlines()[0]
            if give_up() or time.monotonic() > deadline:
                log.error(  # noqa: TRY400
                    "PostgreSQL not usable after %g s: %s",
                    settings.database_wait_seconds,
                    text,
                    extra={"action": "executor.no_database"},
                )
                raise
            log.warning("waiting for PostgreSQL: %s", text, extra={"action": "executor.waiting"})
            time.sleep(0.5)


def lacking(connection: Connection) -> str | None:
    """Returns what this code needs and the database lacks, or None. A newer database lacks nothing.

    Raises ``psycopg2.Error`` if nothing is prepared at all, or nothing may be read yet.
    """
    (found,) = query(connection, "schema_version")
    for what, is_at, needed in (
        ("DBOS", found["dbos"], get_dbos_migrations("dbos", True)),
        ("its datasource", found["datasource"], get_postgres_datasource_migrations("dbos")),
    ):
        if (is_at or 0) < len(needed):
            return f"migration {len(needed)} of {what} (it is at {is_at or 0})"
    missing = [file.name for file in _files() if file.name not in found["ops"]]
    return missing[0] if missing else None


def dbos_migration_count() -> int:
    """Returns the number of migrations of the installed DBOS."""
    return len(get_dbos_migrations("dbos", True))


def _files() -> list[Traversable]:
    """Returns Holdfast's migrations in their order."""
    folder = resources.files("holdfast.postgres") / "sql" / "migrations"
    return sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda f: f.name)


def sqlalchemy_url(url: str) -> str:
    """Converts a libpq URL for SQLAlchemy: it names psycopg 3 as driver, and several hosts as parameters."""
    parts = urlsplit(url.replace("postgresql://", "postgresql+psycopg://", 1))
    user, at, hosts = parts.netloc.rpartition("@")
    if "," not in hosts:
        return parts.geturl()
    query = "&".join([*filter(None, [parts.query]), *(f"host={host}" for host in hosts.split(","))])
    return parts._replace(netloc=f"{user}{at}", query=query).geturl()


def main() -> int:
    """Runs the migrations. Returns exit code 0 once the schema is up to date."""
    try:
        ran = migrate(get_settings())
    except psycopg2.Error as error:
        print(f"ops schema: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(f"ops schema: {', '.join(ran) or 'already up to date'}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
