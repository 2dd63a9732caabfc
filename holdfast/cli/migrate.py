"""``holdfast migrate``: prepares a user's own database for attached applications."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.shown import JsonOption, plain_errors, show

if TYPE_CHECKING:
    from holdfast.dbos_adapter.preparing import Prepared


def migrate(
    database_url: Annotated[
        str,
        typer.Option(
            envvar="DBOS_SYSTEM_DATABASE_URL",
            help="the database in which the application's DBOS keeps its tables",
        ),
    ],
    schema: Annotated[
        str, typer.Option(help="the schema of DBOS's tables, the configuration's dbos_system_schema")
    ] = "dbos",
    role: Annotated[
        str | None, typer.Option(help="also grant this role what an attached application needs")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Add the schema `ops` to a database of DBOS, or bring it up to date. Repeatable.

    Run it with the URL of the role that owns DBOS's tables. A database without DBOS gets DBOS's schema too,
    as `dbos migrate` makes it.
    """
    with plain_errors():
        from holdfast.dbos_adapter.preparing import prepare_database  # importing DBOS takes a moment

        done = prepare_database(database_url, schema=schema, role=role)
        show(dataclasses.asdict(done), as_json=as_json, human=lambda: _sentence(done))


def _sentence(done: Prepared) -> str:
    dbos = "made" if done.created_dbos else "found"
    ops = f"ran {len(done.ran)} migrations" if done.ran else "already up to date"
    known = f"; applications: {', '.join(done.applications)}" if done.applications else ""
    return f'DBOS\'s schema "{done.schema}": {dbos} (migration {done.dbos_version}); ops: {ops}{known}'
