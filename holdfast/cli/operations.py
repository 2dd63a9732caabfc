"""Commands of control operations (cancel, resume, delete, operations), and how commands wait for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from holdfast.cli.shown import Api, JsonOption, TimeoutOption, UrlOption, console, plain_errors, show, table
from holdfast.cli.waiting import poll_until
from holdfast.control.kinds import kinds_of
from holdfast.control.operations import Requested, begin
from holdfast.control.worker import Worker, batches
from holdfast.path_segment import encode_segment, workflow_path
from holdfast.postgres.database import Connection
from holdfast.settings import Settings
from holdfast.visible import visible

_SCAN_SECONDS = 120.0

WorkflowArgument = Annotated[str, typer.Argument(help="id of the workflow")]


def cancel(
    workflow_id: WorkflowArgument,
    timeout: TimeoutOption = 3600.0,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cancel a workflow and all below it, and wait until that is done.

    Repeated, it cancels what is left below a workflow that is cancelled already.
    """
    _request(workflow_id, "cancel", timeout, url, as_json)


def resume(
    workflow_id: WorkflowArgument,
    timeout: TimeoutOption = 3600.0,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a cancelled or parked workflow, and what is cancelled below it, back into its queue."""
    _request(workflow_id, "resume", timeout, url, as_json)


def delete(
    workflow_id: WorkflowArgument,
    *,
    children: Annotated[
        bool, typer.Option("--children", metavar="", help="delete all below it, too; all must have ended")
    ] = False,
    timeout: TimeoutOption = 3600.0,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a workflow that has ended, with all that belongs to it, and wait until that is done.

    Unfinished work is refused, and so is a child whose parent may still need its result.
    """
    with plain_errors():
        api = Api(url)
        answer = api.delete(workflow_path(workflow_id), children=children)
        _show_done(api, answer, timeout, as_json, lambda: f"{answer['deleted']} deleted")


def operations(
    operation_id: Annotated[str | None, typer.Argument(help="wait for this one [default: list them]")] = None,
    timeout: TimeoutOption = 3600.0,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List control operations and how far they are, or wait for one; exit code 1 unless it succeeds."""
    with plain_errors():
        api = Api(url)
        if operation_id is not None:
            _end(
                _wait(api, api.get(f"/operations/{encode_segment(operation_id)}"), timeout, as_json), as_json
            )
        found = api.get("/operations")
        show(found, as_json=as_json, human=lambda: _table(found["operations"]))


def _request(workflow_id: str, kind: str, timeout: float, url: str | None, as_json: bool) -> None:
    with plain_errors():
        api = Api(url)
        answer = api.post(workflow_path(workflow_id, kind))
        _show_done(api, answer, timeout, as_json, lambda: f"{answer['workflow_id']}: {answer['status']}")


def _show_done(
    api: Api, answer: dict[str, Any], timeout: float, as_json: bool, human: Callable[[], str]
) -> None:
    """Shows an answer, or the progress of the operation that it contains until that has ended."""
    if "operation_id" in answer:
        _end(_wait(api, answer, timeout, as_json), as_json)
    show(answer, as_json=as_json, human=human)


def _wait(api: Api, row: dict[str, Any], timeout: float, quiet: bool) -> dict[str, Any]:
    def rows() -> Iterator[dict[str, Any]]:
        found = row
        for seen, _ in poll_until(
            lambda _: api.get(f"/operations/{encode_segment(row['operation_id'])}"), seconds=timeout
        ):
            found = seen or found
            yield found
            if found["ended_at"] is not None:
                return

    return _follow(rows(), quiet=quiet)


def _end(row: dict[str, Any], as_json: bool) -> None:
    show(row, as_json=as_json, human=lambda: _sentence(row))
    raise typer.Exit(0 if row["status"] == "SUCCESS" else 1)


def carry_out(
    connection: Connection, settings: Settings, requested: Requested, *, quiet: bool
) -> dict[str, Any]:
    """Begins an operation, carries it out on this connection to its end, and returns its row.

    The API's thread may do some of its batches. If this process ends, that thread does the rest.
    Raises `Conflict`, ``psycopg2.Error``.
    """
    kinds = kinds_of(settings)
    operation_id = begin(connection, kinds, requested)
    worker = Worker(kinds, scan_seconds=_SCAN_SECONDS)
    return _follow(batches(lambda: nullcontext(connection), worker, operation_id), quiet=quiet)


def _follow(rows: Iterator[dict[str, Any]], *, quiet: bool) -> dict[str, Any]:
    """Shows the progress of an operation and returns its last row."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    row: dict[str, Any] = {}
    with Progress(*columns, console=console, disable=quiet, transient=True) as progress:
        task = progress.add_task("", total=None)
        for row in rows:
            text = f"{row['kind']} {(row['note'] and '(' + row['note'] + ')') or ''}"
            progress.update(task, description=visible(text), completed=row["completed"], total=row["total"])
    return row


def _sentence(row: dict[str, Any]) -> str:
    note = f" ({row['note']})" if row["note"] else ""
    return f"{row['kind']} of {row['target']}: {row['status']}, {row['completed']} workflows{note}"


def _table(rows: list[dict[str, Any]]) -> Any:
    columns = ["operation", "kind", "target", "status", "completed", "total", "requested by", "note"]
    keys = ["operation_id", "kind", "target", "status", "completed", "total", "requested_by", "note"]
    cells = [[row[key] for key in keys] for row in rows]
    return table(f"{len(rows)} operations", columns, cells, droppable=["requested by"])
