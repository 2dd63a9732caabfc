"""Prepares a user's database for attached applications: ``holdfast migrate --database-url`` runs this.

DBOS's schema may have any name and be of any DBOS 3. ``ops`` is added beside it. A database has one ``ops``,
and that belongs to one schema of DBOS.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import psycopg2
import psycopg2.extras
from dbos import DBOS, SQLAlchemyDatasource, run_dbos_database_migrations

from holdfast.dbos_adapter.schema import (
    datasource_migrations,
    dbos_migration_count,
    grant_to_application,
    lock_migrations,
    run_migrations,
    sqlalchemy_url,
    unknown_migrations,
)
from holdfast.dbos_adapter.serializer import json_serializer
from holdfast.errors import DatabaseNotPrepared
from holdfast.postgres.database import CONNECT_OPTIONS, Connection, query
from holdfast.postgres.statements import check_schema, sql

OLDEST_DBOS = 114
"""The migrations of DBOS 3.0.0, the oldest that Holdfast knows."""


@dataclass(frozen=True)
class Prepared:
    """What a database has after it was prepared."""

    schema: str
    created_dbos: bool
    dbos_version: int
    """The number of DBOS's migrations there."""
    ran: list[str]
    """The migrations of ``ops`` that were missing."""
    applications: list[str]


def prepare_database(url: str, *, schema: str = "dbos", role: str | None = None) -> Prepared:
    """Creates or upgrades ``ops`` beside DBOS's schema, and that schema if the database has none.

    ``role`` gets the rights of an attached application; the role of the URL has them as the owner.
    Repeatable. Raises `DatabaseNotPrepared` with a sentence that says what to do.
    """
    url = _libpq_url(url)
    try:
        check_schema(schema)
    except ValueError as error:
        raise DatabaseNotPrepared(str(error)) from None
    connection = _connect(url)
    try:
        lock_migrations(connection)
        state = _state(connection, schema)
        _check(state, schema)
        if created := state["dbos"] is None:
            _create_dbos(url, schema, state)
        # A trigger of ops deletes from it. DBOS adopts the table when a datasource needs it.
        if not (statements := datasource_migrations(schema)):
            SQLAlchemyDatasource.create(
                sqlalchemy_url(url), schema=schema, serializer=json_serializer()
            ).engine.dispose()
        for statement in statements:
            connection.cursor().execute(statement)
        ran = run_migrations(connection, schema)
        if role is not None:
            _check_role(connection, role)
            grant_to_application(connection, role, schema)
        connection.cursor().execute(sql("add_known_applications", schema))
        return Prepared(
            schema=schema,
            created_dbos=created,
            dbos_version=dbos_migration_count() if created else state["dbos"],
            ran=ran,
            applications=[row["name"] for row in query(connection, "applications")],
        )
    except psycopg2.Error as error:
        raise DatabaseNotPrepared(f"PostgreSQL refused it: {_first_line(error)}") from None
    finally:
        connection.close()


def _libpq_url(url: str) -> str:
    """Returns a URL of SQLAlchemy's as libpq reads it. The scheme may name a driver."""
    scheme = urlsplit(url).scheme
    if scheme.startswith("sqlite"):
        raise DatabaseNotPrepared(
            "This is a SQLite database. Holdfast needs PostgreSQL: a process is seen to die by its sessions."
        )
    if not re.fullmatch(r"postgres(ql)?(\+\w+)?", scheme):
        raise DatabaseNotPrepared("The URL must begin with postgresql://.")
    return "postgresql" + url[len(scheme) :]


def _connect(url: str) -> Connection:
    try:
        connection = psycopg2.connect(
            url,
            application_name="holdfast/migrate",
            options="-c statement_timeout=300000 -c lock_timeout=60000",
            cursor_factory=psycopg2.extras.RealDictCursor,
            **CONNECT_OPTIONS,
        )
    except psycopg2.OperationalError as error:
        text = _first_line(error)
        if "does not exist" in text and "database" in text:
            raise DatabaseNotPrepared(f"{text}. Create it first: `createdb`, or `dbos migrate`.") from None
        raise DatabaseNotPrepared(f"PostgreSQL cannot be reached: {text}") from None
    except psycopg2.Error as error:
        raise DatabaseNotPrepared(f"The URL is not valid: {_first_line(error)}") from None
    connection.autocommit = True
    return cast(Connection, connection)


def _state(connection: Connection, schema: str) -> dict[str, Any]:
    """Returns what the database has, and what the role may do there."""
    (state,) = query(connection, "database_state", schema=schema)
    state["ops"], state["dbos"] = [], None
    if state["holdfasts_ops"] and state["owns_ops"]:
        (recorded,) = query(connection, "ops_migrations")
        state["ops"] = recorded["names"]
    if state["has_dbos"]:
        if not state["reads_dbos"]:
            raise DatabaseNotPrepared(
                f'The role "{state["role"]}" may not read the schema "{schema}": use the URL of the role '
                "that owns DBOS's tables."
            )
        with connection.cursor() as cursor:
            cursor.execute(f'SELECT max(version) AS version FROM "{schema}".dbos_migrations')  # noqa: S608
            row: Any = cursor.fetchone()
            state["dbos"] = row["version"] or 0
    return state


def _check(state: dict[str, Any], schema: str) -> None:
    """Raises `DatabaseNotPrepared` where the database cannot be prepared as it is."""
    role, ours = state["role"], dbos_migration_count()
    if state["protected_schema"] not in (None, schema):
        raise DatabaseNotPrepared(
            f'The schema ops of this database belongs to DBOS\'s schema "{state["protected_schema"]}", and a '
            f'database can have one of each. Configure the application of "{schema}" with '
            f'dbos_system_schema="{state["protected_schema"]}", or give it a database of its own.'
        )
    if state["has_ops"] and state["owns_ops"] and not state["holdfasts_ops"] and state["ops_tables"]:
        raise DatabaseNotPrepared(
            "This database has a schema ops that is not Holdfast's. Give the application's DBOS another one."
        )
    if newer := unknown_migrations(state["ops"]):
        raise DatabaseNotPrepared(
            f"A newer Holdfast prepared this database ({newer[-1]} is unknown here). Upgrade Holdfast."
        )
    found = state["dbos"]
    if found is None and state["schema_exists"] and state["tables"]:
        raise DatabaseNotPrepared(
            f"The schema \"{schema}\" has tables, but none of them is DBOS's. Name DBOS's schema: --schema."
        )
    if found is not None and found < OLDEST_DBOS:
        raise DatabaseNotPrepared(
            f'DBOS\'s schema "{schema}" is at migration {found}, older than DBOS 3.0 ({OLDEST_DBOS}). Run '
            "`dbos migrate` of the application's DBOS first, which must be 3.0 or newer."
        )
    if found is not None and found > ours:
        raise DatabaseNotPrepared(
            f'DBOS\'s schema "{schema}" is at migration {found}, and the DBOS that is installed here knows '
            f"{ours}. Install the application's version of DBOS here, or run this in the application's "
            "environment."
        )
    lacks = None
    if not state["may_create"] and (not state["has_ops"] or (found is None and not state["schema_exists"])):
        lacks = f'GRANT CREATE ON DATABASE "{state["database"]}" TO "{role}"'
    elif state["has_ops"] and not state["owns_ops"]:
        lacks = f'ALTER SCHEMA ops OWNER TO "{role}", with its tables'
    elif found is not None and not state["owns_dbos"]:
        # Holdfast adds triggers and indexes to DBOS's tables.
        lacks = f'GRANT {state["dbos_owner"]} TO "{role}"'
    if lacks:
        raise DatabaseNotPrepared(
            f'The role "{role}" lacks rights. Use the URL of the owner, or as a superuser: {lacks}.'
        )


def _create_dbos(url: str, schema: str, state: dict[str, Any]) -> None:
    try:
        # DBOS 3.0 and 3.1 have no DBOS.migrate.
        migrate = getattr(DBOS, "migrate", run_dbos_database_migrations)
        migrate(sqlalchemy_url(url), schema=schema)
    except Exception as error:
        raise DatabaseNotPrepared(
            f'`dbos migrate` failed for the schema "{schema}" in "{state["database"]}": {_first_line(error)}'
        ) from None


def _check_role(connection: Connection, role: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,))
        if cursor.fetchone() is None:
            raise DatabaseNotPrepared(f'There is no role "{role}" on this server.')


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
