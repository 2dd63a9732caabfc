"""Prepares a Holdfast database beyond DBOS's own tables: the ``ops`` schema and rights.

Runs as ``python -m holdfast.dbos_adapter.schema`` after ``dbos migrate`` (dbos-config.yaml names it there).
For a user's database, ``holdfast migrate`` does the same (`holdfast.dbos_adapter.preparing`). API, workers
and attached processes run none of this DDL.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable
from importlib import resources
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg2
from dbos import SQLAlchemyDatasource
from dbos._migration import get_dbos_migrations

from holdfast.errors import PoolerSharesSessions
from holdfast.postgres.database import Connection, connect, query, transaction
from holdfast.postgres.outage import RETRY_SECONDS, backed_off, lacks_connections
from holdfast.postgres.pooler import require_own_sessions
from holdfast.postgres.statements import DBOS_SCHEMA, in_schema

if TYPE_CHECKING:
    from holdfast.settings import Settings

log = logging.getLogger("holdfast.schema")

_MIGRATION_LOCK = 7031

APPS = "holdfast_apps"
"""The role whose members are the applications of `holdfast app add` (postgres/roles.sql)."""


def migrate(settings: Settings) -> list[str]:
    """Brings the ``ops`` schema up to date and returns the names of the migrations that ran.

    Safe to run twice, and concurrently: the second run waits for the first. Raises ``psycopg2.Error`` when
    the role may not create schemas or a statement fails. Each migration is one transaction.
    """
    # This creates the datasource's marker table for the effect ledger. DBOS owns its shape.
    SQLAlchemyDatasource.migrate(sqlalchemy_url(settings.database_url), schema=DBOS_SCHEMA)
    connection = connect(settings, purpose="migrate", statement_timeout_seconds=300)
    try:
        require_own_sessions(connection, lambda: connect(settings, purpose="migrate"))
        ran = run_migrations(connection, DBOS_SCHEMA)
        _isolate_applications(connection)
        stack: dict[str, Any] = {"kind": "stack", "added_by": "migrate", "database_role": None}
        for name in settings.application_names:
            query(connection, "add_application", name=name, **stack)
        query(connection, "add_known_applications")
        return ran
    finally:
        connection.close()


def run_migrations(connection: Connection, dbos_schema: str) -> list[str]:
    """Runs Holdfast's missing migrations and grants on a database whose DBOS tables are in ``dbos_schema``.

    Returns the names of the migrations. Raises ``psycopg2.Error``. The connection keeps the migrations' lock.
    """
    lock_migrations(connection)
    cursor = connection.cursor()
    # This is the value of roles.sql, which the connection's own options override. A change of a table
    # that waits for its lock blocks all sessions behind it. Only migrations wait for the lock above.
    cursor.execute("SET lock_timeout TO '60s'")
    # IF NOT EXISTS needs the right to create schemas even where the schema exists.
    cursor.execute("SELECT to_regnamespace('ops') IS NULL AS missing")
    rows: Any = cursor.fetchall()  # the cursor factory makes them dicts
    if rows[0]["missing"]:
        cursor.execute("CREATE SCHEMA ops")
    cursor.execute(
        "CREATE TABLE IF NOT EXISTS ops.migrations "
        "(name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
    )
    cursor.execute("SELECT name FROM ops.migrations")
    rows = cursor.fetchall()
    known = {row["name"] for row in rows}
    ran = []
    for file in _files():
        if file.name in known:
            continue
        with transaction(connection):
            cursor.execute(in_schema(file.read_text("utf-8"), dbos_schema))
            cursor.execute("INSERT INTO ops.migrations (name) VALUES (%s)", (file.name,))
        ran.append(file.name)
    run_script(connection, "grants.sql", dbos_schema)
    # A new migration may bring what these roles lack, and an upgrade does not name them.
    for row in query(connection, "attached_roles", stack=["holdfast_api", "holdfast_worker", APPS]):
        grant_to_application(connection, row["role"], dbos_schema, grant_only=True)
    return ran


def lock_migrations(connection: Connection) -> None:
    """Waits until no other migration runs. The lock ends with the connection."""
    connection.cursor().execute("SELECT pg_advisory_lock(%s, 0)", (_MIGRATION_LOCK,))


def run_script(connection: Connection, file: str, dbos_schema: str) -> None:
    """Runs a file of ``holdfast/postgres/sql`` in one transaction. Raises ``psycopg2.Error``."""
    text = (resources.files("holdfast.postgres") / "sql" / file).read_text("utf-8")
    connection.cursor().execute(in_schema(text, dbos_schema))


def grant_to_application(
    connection: Connection, role: str, dbos_schema: str, *, grant_only: bool = False
) -> None:
    """Grants a role what an attached application needs. Raises ``psycopg2.Error``.

    The role keeps no other right on these tables, unless ``grant_only``.
    """
    with transaction(connection):
        connection.cursor().execute(
            "SELECT set_config('holdfast.grantee', %s, true), set_config('holdfast.grant_only', %s, true)",
            (role, str(grant_only).lower()),
        )
        run_script(connection, "attached_grants.sql", dbos_schema)


def _isolate_applications(connection: Connection) -> None:
    """Gives the applications of `holdfast app add` their rights, where roles.sql made their group."""
    cursor = connection.cursor()
    cursor.execute("SELECT FROM pg_roles WHERE rolname = %s AND current_user = 'holdfast_owner'", (APPS,))
    if cursor.fetchone() is not None:
        grant_to_application(connection, APPS, DBOS_SCHEMA)
        with transaction(connection):
            run_script(connection, "isolation.sql", DBOS_SCHEMA)


def datasource_migrations(schema: str) -> list[str]:
    """Returns DBOS's migrations of a datasource's table. Before 3.2 it has none: a datasource makes it."""
    if find_spec("dbos._datasource_migration") is None:
        return []
    from dbos._datasource_migration import get_postgres_datasource_migrations

    return get_postgres_datasource_migrations(schema)


def unknown_migrations(names: Iterable[str]) -> list[str]:
    """Returns those of the recorded migrations that this Holdfast does not have: a newer one ran them."""
    return sorted(set(names) - {file.name for file in _files()})


def wait_until_prepared(settings: Settings, *, purpose: str, give_up: Callable[[], bool]) -> None:
    """Waits until the database is migrated for this code, at most ``database_wait_seconds``. Logs the wait.

    Raises ``psycopg2.OperationalError`` with the last error's text when the time is over or ``give_up``
    returns True, and immediately ``PoolerSharesSessions``.
    """
    deadline = time.monotonic() + settings.database_wait_seconds
    pause_seconds = RETRY_SECONDS
    while True:
        try:
            connection = connect(settings, purpose=purpose)
            try:
                require_own_sessions(connection, lambda: connect(settings, purpose=purpose))
                if lacks := lacking(connection):
                    raise psycopg2.OperationalError(f"the database lacks {lacks}: `migrate` has to run")
                return
            finally:
                connection.close()
        except psycopg2.Error as error:
            text = first_line(error)
            if give_up() or time.monotonic() > deadline:
                waited = f"PostgreSQL not usable after {settings.database_wait_seconds:g} s"
                raise psycopg2.OperationalError(f"{waited}: {text}") from error
            log.warning("waiting for PostgreSQL: %s", text, extra={"action": "executor.waiting"})
            # Where others have taken all connections, attempts are connections that they lack, too.
            pause_seconds = backed_off(pause_seconds) if lacks_connections(error) else RETRY_SECONDS
            time.sleep(min(pause_seconds, max(0.1, deadline - time.monotonic())))


def first_line(error: psycopg2.Error) -> str:
    """Returns the first line of a database error, or its type if it has no text."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def lacking(connection: Connection) -> str | None:
    """Returns what this code needs and the database lacks, or None. A newer database lacks nothing.

    Raises ``psycopg2.Error`` if nothing is prepared at all, or nothing may be read yet.
    """
    (found,) = query(connection, "schema_version")
    for what, is_at, needed in (
        ("DBOS", found["dbos"], get_dbos_migrations("dbos", True)),
        ("its datasource", found["datasource"], datasource_migrations("dbos")),
    ):
        if (is_at or 0) < len(needed):
            return f"migration {len(needed)} of {what} (it is at {is_at or 0})"
    return _first_missing(found["ops"])


def unprepared(connection: Connection, dbos_schema: str) -> str | None:
    """Returns why this code cannot use ``ops`` for an application with this schema of DBOS, or None.

    An attached application migrates DBOS's own schema itself. A newer ``ops`` lacks nothing. Raises
    ``psycopg2.Error``.
    """
    (state,) = query(connection, "ops_state")
    if not state["has_ops"]:
        return "is not prepared: run `holdfast migrate --database-url URL` once"
    if state["protected_schema"] not in (None, dbos_schema):
        return f'is prepared for the schema "{state["protected_schema"]}" of DBOS, not for "{dbos_schema}"'
    (recorded,) = query(connection, "ops_migrations")
    if lacks := _first_missing(recorded["names"]):
        return f"lacks {lacks}: run `holdfast migrate --database-url URL` once more"
    return None


def _first_missing(known: list[str]) -> str | None:
    missing = [file.name for file in _files() if file.name not in known]
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
    from holdfast.settings import get_settings

    try:
        ran = migrate(get_settings())
    except (psycopg2.Error, PoolerSharesSessions) as error:
        print(f"ops schema: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(f"ops schema: {', '.join(ran) or 'already up to date'}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
