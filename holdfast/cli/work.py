"""Commands about work over HTTP: ``start``, ``executors``, ``drain``, ``crash``."""

from __future__ import annotations

import json
import uuid
from typing import Annotated, Any

import typer

from holdfast.cli.shown import (
    Api,
    JsonOption,
    KeyOption,
    Refused,
    TimeoutOption,
    UrlOption,
    WaitOption,
    age,
    lines_of,
    lines_of_value,
    plain_errors,
    show,
    table,
)
from holdfast.cli.waiting import ended, show_accepted, show_end
from holdfast.installations.installation import NothingRunsError
from holdfast.path_segment import encode_segment


def start(
    workflow: Annotated[str, typer.Argument(help="durable name, for example orders.fulfil")],
    arguments: Annotated[
        str,
        typer.Argument(
            help='its arguments by name, a JSON object: {"order_id": "o-1"}; of a plain DBOS workflow a JSON '
            'array: ["o-1"]'
        ),
    ] = "{}",
    *,
    kwargs: Annotated[
        str | None, typer.Option(help="keyword arguments of a plain DBOS workflow, a JSON object")
    ] = None,
    application: Annotated[str | None, typer.Option(help="whose workflow, where several have one")] = None,
    queue: Annotated[
        str | None, typer.Option(help="for a plain DBOS workflow [default: immediately, without a queue]")
    ] = None,
    key: KeyOption = None,
    wait: WaitOption = False,
    timeout: TimeoutOption = 3600.0,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start any workflow that a live executor has registered, and with --wait show what it returned."""
    try:
        given = json.loads(arguments)
        named = None if kwargs is None else json.loads(kwargs)
    except ValueError as error:
        raise typer.BadParameter(f"ARGUMENTS or --kwargs is not JSON: {error}") from None
    options = {"kwargs": named, "application": application, "queue": queue}
    body: dict[str, Any] = {"workflow": workflow, ("args" if isinstance(given, list) else "arguments"): given}
    body |= {name: value for name, value in options.items() if value is not None}
    with plain_errors():
        api = Api(url)
        try:
            accepted = api.post("/workflows", body, key=key or uuid.uuid4().hex)
        except Refused as error:
            if error.status != 405:
                raise
            raise NothingRunsError("no module is registered there: start it with HOLDFAST_MODULES") from None
        if not wait:
            show_accepted(accepted, as_json=as_json)
            return
        finished = ended(api, accepted["workflow_id"], timeout=timeout)
        show_end(finished, as_json=as_json, human=_outcome_text)


def _outcome_text(workflow: dict[str, Any]) -> list[str]:
    succeeded = workflow["status"] == "SUCCESS"
    lines = lines_of_value(workflow.get("output")) if succeeded else lines_of(workflow.get("error"))
    return [f"{workflow['workflow_id']}: {workflow['status']}", *lines]


def executors(
    everyone: Annotated[
        bool, typer.Option("--all", metavar="", help="also those that ended within the hour")
    ] = False,
    application: Annotated[str | None, typer.Option(help="only those of this application")] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the processes that run workflows."""
    with plain_errors():
        query = {} if application is None else {"application": application}
        rows = Api(url).get("/executors", **query)["executors"]
        rows = [row for row in rows if everyone or row["state"] in ("live", "draining")]
        show({"executors": rows}, as_json=as_json, human=lambda: _executors_table(rows))


def _executors_table(rows: list[dict[str, Any]]) -> Any:
    columns = [
        *("executor", "application", "state", "heartbeat", "in flight", "slots", "reason"),
        "taken over by",
    ]
    cells = [
        [
            row["executor_id"],
            row["application"],
            row["state"],
            age(row["heartbeat_age_seconds"]),
            row["in_flight"],
            row["slots"] or None,
            row["reason"],
            row["taken_over_by"],
        ]
        for row in rows
    ]
    return table(f"{len(rows)} executors", columns, cells, droppable=["slots", "heartbeat"])


def drain(executor_id: str, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Request that an executor finishes its running steps, hands over the rest, and ends."""
    _request(executor_id, "drain", url, as_json)


def crash(executor_id: str, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Request that an executor kills itself; only where HOLDFAST_CHAOS is true."""
    _request(executor_id, "crash", url, as_json)


def _request(executor_id: str, operation: str, url: str | None, as_json: bool) -> None:
    with plain_errors():
        answer = Api(url).post(f"/executors/{encode_segment(executor_id)}/{operation}")
        show(answer, as_json=as_json, human=lambda: f"{operation} of {executor_id} requested")
