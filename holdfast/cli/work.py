"""Commands about work over HTTP: ``submit``, ``start``, ``executors``, ``drain``, ``crash``."""

from __future__ import annotations

import json
import time
import uuid
from contextlib import nullcontext
from typing import Annotated, Any

import httpx
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from holdfast.cli.shown import (
    Api,
    JsonOption,
    KeyOption,
    Refused,
    TimeoutOption,
    UrlOption,
    WaitOption,
    age,
    console,
    plain_errors,
    show,
    table,
)
from holdfast.installations.installation import NothingRunsError
from holdfast.statuses import TERMINAL

_LOOK_SECONDS = 0.2


def submit(
    *,
    count: Annotated[int | None, typer.Option(help="how many numbers: 0, 1, 2, … [default: 50]")] = None,
    numbers: Annotated[str | None, typer.Option(help="the numbers themselves: 30,31,32")] = None,
    method: Annotated[str, typer.Option(help="recursive or doubling")] = "recursive",
    sequential: Annotated[bool, typer.Option(help="each number after the former's result")] = False,
    key: KeyOption = None,
    wait: WaitOption = False,
    timeout: TimeoutOption = 3600.0,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a batch of Fibonacci numbers, and with --wait follow it to its end."""
    body: dict[str, Any] = {"method": method, "sequential": sequential}
    with plain_errors():
        if numbers is not None:
            try:
                body["numbers"] = [int(word) for word in numbers.split(",")]
            except ValueError:
                raise typer.BadParameter("--numbers: whole numbers separated by commas") from None
        if count is not None:
            body["count"] = count
        api = Api(url)
        accepted = api.post("/fibonacci/batches", body, key=key or uuid.uuid4().hex)
        if not wait:
            show(accepted, as_json=as_json, human=lambda: f"accepted {accepted['workflow_id']}")
            return
        path = f"/fibonacci/batches/{accepted['workflow_id']}"
        batch = follow(api, path, accepted, timeout=timeout, quiet=as_json)
        show(batch, as_json=as_json, human=lambda: _batch_text(batch))
        raise typer.Exit(0 if batch["status"] == "SUCCESS" else 1)


def start(
    workflow: Annotated[str, typer.Argument(help="durable name, for example orders.fulfil")],
    arguments: Annotated[
        str, typer.Argument(help='its arguments by name, a JSON object: {"order_id": "o-1"}')
    ] = "{}",
    *,
    key: KeyOption = None,
    wait: WaitOption = False,
    timeout: TimeoutOption = 3600.0,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a workflow of your own, and with --wait show what it returned."""
    try:
        given = json.loads(arguments)
    except ValueError as error:
        raise typer.BadParameter(f"ARGUMENTS is not JSON: {error}") from None
    with plain_errors():
        api = Api(url)
        body = {"workflow": workflow, "arguments": given}
        try:
            accepted = api.post("/workflows", body, key=key or uuid.uuid4().hex)
        except Refused as error:
            if error.status != 405:
                raise
            raise NothingRunsError("no module is registered there: start it with HOLDFAST_MODULES") from None
        if not wait:
            show(accepted, as_json=as_json, human=lambda: f"accepted {accepted['workflow_id']}")
            return
        ended = _ended(api, accepted["workflow_id"], timeout=timeout)
        result = ended.get("output") if ended["status"] == "SUCCESS" else ended.get("error")
        show(ended, as_json=as_json, human=lambda: f"{ended['workflow_id']}: {ended['status']}\n{result}")
        raise typer.Exit(0 if ended["status"] == "SUCCESS" else 1)


def _ended(api: Api, workflow_id: str, *, timeout: float) -> dict[str, Any]:
    """The workflow at its end, or at the timeout; an API or a database that is away is waited for."""
    deadline = time.monotonic() + timeout
    found: dict[str, Any] = {"workflow_id": workflow_id, "status": "ENQUEUED"}
    while found["status"] not in TERMINAL and (left := deadline - time.monotonic()) > 0:
        try:
            found = api.get(f"/workflows/{workflow_id}", wait=min(5.0, left))
        except httpx.TransportError:
            pass
        except Refused as error:
            if error.status not in (429, 503):
                raise
        # Also after an answer: an API that drains, or has no free place, does not wait.
        if found["status"] not in TERMINAL:
            time.sleep(_LOOK_SECONDS)
    return found


def follow(
    api: Api, path: str, accepted: dict[str, Any], *, timeout: float, quiet: bool, total: str = "total"
) -> dict[str, Any]:
    """What was accepted, at its end or at the timeout; an API that is away is waited for.

    ``total``: the member that says how many there are to be ``completed``.
    """
    work_id = accepted["workflow_id"]
    deadline = time.monotonic() + timeout
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    seen: dict[str, Any] = {"completed": 0, **accepted}
    with nullcontext() if quiet else Progress(*columns, console=console) as progress:
        task = progress.add_task(work_id, total=None) if progress else None
        while seen["status"] not in TERMINAL and time.monotonic() < deadline:
            note = ""
            try:
                seen = api.get(path)
            except httpx.TransportError:
                note = " (API away)"
            except Refused as error:
                if error.status != 503:
                    raise
                note = " (database away)"
            if progress and task is not None:
                text = f"{work_id} {seen['status']}{note}"
                progress.update(task, description=text, completed=seen["completed"], total=seen.get(total))
            time.sleep(_LOOK_SECONDS)
    return seen


def _batch_text(batch: dict[str, Any]) -> str:
    shares: dict[str, int] = {}
    for number in batch.get("results", []):
        if number["executor_id"]:
            shares[number["executor_id"]] = shares.get(number["executor_id"], 0) + 1
    told = ", ".join(f"{executor} {count}" for executor, count in sorted(shares.items()))
    error = f"\n{batch['error']}" if batch.get("error") else ""
    done = f"{batch['completed']} of {batch.get('total', '?')}"
    return f"{batch['workflow_id']}: {batch['status']}, {done} numbers ({told}){error}"


def executors(
    everyone: Annotated[bool, typer.Option("--all", help="also those that ended within the hour")] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the processes that run workflows."""
    with plain_errors():
        rows = Api(url).get("/executors")["executors"]
        rows = [row for row in rows if everyone or row["state"] in ("live", "draining")]
        show({"executors": rows}, as_json=as_json, human=lambda: _executors_table(rows))


def _executors_table(rows: list[dict[str, Any]]) -> Any:
    columns = ["executor", "state", "heartbeat", "in flight", "slots", "reason", "taken over by"]
    return table(
        f"{len(rows)} executors",
        columns,
        [
            [
                row["executor_id"],
                row["state"],
                age(row["heartbeat_age_seconds"]),
                row["in_flight"],
                row["slots"] or None,
                row["reason"],
                row["taken_over_by"],
            ]
            for row in rows
        ],
    )


def drain(executor_id: str, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Tell an executor to finish its running steps, hand over the rest, and end."""
    _order(executor_id, "drain", url, as_json)


def crash(executor_id: str, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Tell an executor to kill itself; only where HOLDFAST_CHAOS is true."""
    _order(executor_id, "crash", url, as_json)


def _order(executor_id: str, order: str, url: str | None, as_json: bool) -> None:
    with plain_errors():
        answer = Api(url).post(f"/executors/{executor_id}/{order}")
        show(answer, as_json=as_json, human=lambda: f"{executor_id} is told to {order}")
