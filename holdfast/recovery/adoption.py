"""Adoption: at an operator's request, moves stranded work to another version of its application.

The workflows keep their ids.
"""

from __future__ import annotations

from holdfast.postgres.database import Connection, Row, connect, query, transaction
from holdfast.settings import Settings


def move(
    connection: Connection, application: str, from_version: str, to_version: str, *, only: str | None = None
) -> list[Row]:
    """Moves stranded workflows (``only``: one of them), and records each move, in one transaction.

    Moves only workflows that no live executor can run. Raises ``psycopg2.Error``.
    """
    with transaction(connection):
        versions = {"from_version": from_version, "to_version": to_version}
        rows = query(connection, "adopt", application=application, only=only, **versions)
        for executor_id in {row["executor_id"] for row in rows}:
            executor_rows = [row for row in rows if row["executor_id"] == executor_id]
            query(
                connection,
                "record_handovers",
                workflow_ids=[row["workflow_id"] for row in executor_rows],
                workflow_names=[row["workflow_name"] for row in executor_rows],
                executor_id=executor_id,
                by="operator",
                kind="adoption",
                reason=f"{from_version} to {to_version}",
                lost_at=None,
            )
    return rows


def adopt(
    settings: Settings,
    *,
    purpose: str,
    application: str,
    from_version: str,
    to_version: str,
    only: str | None = None,
) -> int:
    """Calls `move` on a new connection. Returns how many workflows moved. Raises ``psycopg2.Error``."""
    seconds = settings.database_timeout_seconds
    connection = connect(settings, purpose=purpose, statement_timeout_seconds=seconds)
    try:
        return len(move(connection, application, from_version, to_version, only=only))
    finally:
        connection.close()
