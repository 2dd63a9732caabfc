"""Waits for the end of workflows over HTTP, through restarts of the API and outages of its database."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, NoReturn, TypeVar

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from holdfast.cli.shown import Api, Refused, Unreachable, console, plain_errors, show
from holdfast.path_segment import encode_segment, workflow_path
from holdfast.statuses import TERMINAL
from holdfast.visible import visible

T = TypeVar("T")

_POLL_SECONDS = 0.2
_BUSY = {429: "API busy", 503: "API busy"}
"""Status codes of answers that are worth a retry."""
_AWAY = {
    "database-unavailable": "database away",
    "statement-timeout": "database slow",
    "lock-timeout": "database slow",
    "database-busy": "database busy",
    "database-read-only": "database read-only",
    "draining": "API restarts",
}
"""What to say for the kinds of these answers that have more to say than their status code."""


def why_away(error: Unreachable | Refused) -> str:
    """Returns why the API does not answer now. Raises the error again if a retry does not help."""
    if isinstance(error, Unreachable):
        return "API away"
    if error.status not in _BUSY:
        raise error
    return _AWAY.get(error.kind, _BUSY[error.status])


def poll_until(poll: Callable[[float], T], *, seconds: float) -> Iterator[tuple[T | None, str]]:
    """Polls with ``poll`` until ``seconds`` are over, at least once, and yields each result.

    ``poll`` gets the remaining seconds. While the API does not answer, yields None and the reason.
    """
    deadline = time.monotonic() + seconds
    while True:
        seen, note = None, ""
        try:
            seen = poll(max(0.0, deadline - time.monotonic()))
        except (Unreachable, Refused) as error:
            note = why_away(error)
        yield seen, note
        if time.monotonic() > deadline:
            return
        time.sleep(_POLL_SECONDS)


def ended(api: Api, workflow_id: str, *, timeout: float) -> dict[str, Any]:
    """Waits for a workflow's end, at most ``timeout`` seconds, and returns the workflow."""
    found: dict[str, Any] = {"workflow_id": workflow_id, "status": "ENQUEUED"}
    path = workflow_path(workflow_id)
    # The API waits, too, except while it drains or has no free slot for a waiting request.
    for seen, _ in poll_until(lambda left: api.get(path, wait=min(5.0, left)), seconds=timeout):
        found = seen or found
        if found["status"] in TERMINAL:
            break
    return found


def follow(
    api: Api, path: str, accepted: dict[str, Any], *, timeout: float, quiet: bool, total: str = "total"
) -> dict[str, Any]:
    """Waits for the end of accepted work, at most ``timeout`` seconds, with a progress bar.

    ``total`` names the member that holds the expected value of ``completed``.
    """
    work_id = accepted["workflow_id"]
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    found: dict[str, Any] = {"completed": 0, **accepted}
    with nullcontext() if quiet else Progress(*columns, console=console) as progress:
        task = progress.add_task(visible(work_id), total=None) if progress else None
        for seen, note in poll_until(lambda _: api.get(path), seconds=timeout):
            found = seen or found
            if progress and task is not None:
                text = f"{work_id} {found['status']}{note and f' ({note})'}"
                progress.update(
                    task, description=visible(text), completed=found["completed"], total=found.get(total)
                )
            if found["status"] in TERMINAL:
                break
    return found


def start_and_follow(
    path: str,
    body: dict[str, Any],
    *,
    url: str | None,
    key: str | None,
    wait: bool,
    timeout: float,
    as_json: bool,
    human: Callable[[dict[str, Any]], Any],
    total: str = "total",
) -> None:
    """Starts work with a POST to ``path`` and shows it: as accepted, or with ``wait`` its end.

    The work is read from ``path`` and its id. ``human`` converts its end for `show`; ``total`` is for
    `follow`.
    """
    with plain_errors():
        api = Api(url)
        accepted = api.post(path, body, key=key or uuid.uuid4().hex)
        if not wait:
            show_accepted(accepted, as_json=as_json)
            return
        work = f"{path}/{encode_segment(accepted['workflow_id'])}"
        finished = follow(api, work, accepted, timeout=timeout, quiet=as_json, total=total)
        show_end(finished, as_json=as_json, human=human)


def show_accepted(accepted: dict[str, Any], *, as_json: bool) -> None:
    """Shows work whose end the command does not wait for."""
    show(accepted, as_json=as_json, human=lambda: f"accepted {accepted['workflow_id']}")


def show_end(finished: dict[str, Any], *, as_json: bool, human: Callable[[dict[str, Any]], Any]) -> NoReturn:
    """Shows work after the wait for its end, and ends the command: exit code 1 unless it succeeded."""
    show(finished, as_json=as_json, human=lambda: human(finished))
    raise typer.Exit(0 if finished["status"] == "SUCCESS" else 1)
