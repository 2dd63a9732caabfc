"""Holdfast after months: a million finished workflows with all that belongs to them in the tables."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from bench.compare.holdfast import Holdfast
from bench.compare.processes import NotMeasured

FINISHED = 1_000_000
BATCH = 50
SPREAD_SECONDS = 86_400
"""They ended within the last day: younger than anything that is ever cleared away."""

# Column of the table that holds the workflow's id.
TABLES = {
    "dbos.workflow_status": "workflow_uuid",
    "dbos.workflow_input": "workflow_uuid",
    "dbos.workflow_output": "workflow_uuid",
    "dbos.operation_outputs": "workflow_uuid",
    "ops.effects": "workflow_id",
}


class HoldfastGrown(Holdfast):
    """The same stack, filled once: its data is kept from round to round."""

    name, title = "holdfast-1m", "Holdfast, a million finished workflows"
    note = (
        f"the same with {FINISHED:,} finished numbers stored: status, input, output, two steps and an effect"
    )
    _home: Path | None = None

    def start(self, home: Path) -> None:  # noqa: ARG002 - its data outlives a round
        kind = type(self)
        if kind._home is not None:
            super().start(kind._home / "stack")
            return
        kind._home = Path(tempfile.mkdtemp(prefix="holdfast-bench-grown-"))
        kind._home.chmod(0o711)  # PostgreSQL's user has to pass
        try:
            super().start(kind._home / "stack")
            self._fill()
        except BaseException:
            self.stop()
            self.discard()  # half a filling is none
            raise

    @classmethod
    def discard(cls) -> None:
        """Deletes the data."""
        if cls._home is not None:
            shutil.rmtree(cls._home, ignore_errors=True)
            cls._home = None

    def _fill(self) -> None:
        """Copies of one number that ran, under other ids and times."""
        batch_id = self.submit([10])
        self.until_done(batch_id, 30)
        with closing(self.running_stack.connect_superuser()) as connection:
            connection.autocommit = True
            fill(connection, f"{batch_id}-0", FINISHED)


def fill(connection: Any, model: str, rows: int) -> None:
    """So many copies of the finished workflow ``model``; the connection is a superuser's, autocommit.

    Raises `NotMeasured` when a table gets fewer rows: a database that is half full proves nothing.
    """
    with connection.cursor() as cursor:
        # No trigger: work that ended long ago needs no wake-up.
        cursor.execute("SET session_replication_role = replica")
        for table, key in TABLES.items():
            cursor.execute(_copy(cursor, table, key, rows), {"model": model, "rows": rows})
            if cursor.rowcount < rows:
                raise NotMeasured(f"{table}: only {cursor.rowcount} rows filled in")
        cursor.execute("SET session_replication_role = DEFAULT")
        cursor.execute("VACUUM (ANALYZE)")
        cursor.execute("CHECKPOINT")


def _copy(cursor: Any, table: str, key: str, rows: int) -> str:
    schema, _, name = table.partition(".")
    cursor.execute(
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = %s"
        " AND table_name = %s AND is_identity = 'NO' AND is_generated = 'NEVER'"
        " AND coalesce(column_default, '') NOT LIKE 'nextval%%'",
        (schema, name),
    )
    older = f"copy * {SPREAD_SECONDS}.0 / {rows}"
    columns: dict[str, str] = {}
    for column, kind in cursor.fetchall():
        columns[column] = f"model.{column}"
        if column == key:
            columns[column] = "'old-' || copy"
        elif column == "parent_workflow_id":
            columns[column] = f"'old-batch-' || copy / {BATCH}"
        elif kind == "bigint" and column.endswith(("_at", "_ms")):
            columns[column] = f"model.{column} - (1000 * {older})::bigint"
        elif kind.startswith("timestamp"):
            columns[column] = f"model.{column} - make_interval(secs => {older})"
        elif column in ("effect_key", "owner_xid", "deduplication_id"):
            columns[column] = f"CASE WHEN model.{column} IS NOT NULL THEN 'old-' || copy END"
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(columns.values())}"
        f" FROM {table} AS model, generate_series(1, %(rows)s) AS copy WHERE model.{key} = %(model)s"
    )
