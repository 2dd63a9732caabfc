"""Waiting for work's end over HTTP, through restarts of the API and outages of its database."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, TypeVar

import httpx
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from holdfast.cli.shown import Api, Refused, console
from holdfast.statuses import TERMINAL

T = TypeVar("T")

_LOOK_SECONDS = 0.2
_AWAY = {429: "API busy", 503: "database away"}
"""Answers that waiting changes."""


def why_away(error: httpx.TransportError | Refused) -> str:
    """Why there is no answer at the moment. Raises the error again if waiting does not change it."""
    if isinstance(error, httpx.TransportError):
        return "API away"
    if error.status not in _AWAY:
        raise error
    return _AWAY[error.status]


def looks(look: Callable[[float], T], *, seconds: float) -> Iterator[tuple[T | None, str]]:
    """What ``look`` returns, again and again until the time is over: at least once.

    ``look`` gets the seconds that are left. While there is no answer, None and the reason.
    """
    deadline = time.monotonic() + seconds
    while True:
        seen, note = None, ""
        try:
            seen = look(max(0.0, deadline - time.monotonic()))
        except (httpx.TransportError, Refused) as error:
            note = why_away(error)
        yield seen, note
        if time.monotonic() > deadline:
            return
        time.sleep(_LOOK_SECONDS)


def ended(api: Api, workflow_id: str, *, timeout: float) -> dict[str, Any]:
    """The workflow at its end, or at the timeout."""
    found: dict[str, Any] = {"workflow_id": workflow_id, "status": "ENQUEUED"}
    path = f"/workflows/{workflow_id}"
    # The API waits too, but not while it drains or has no free place.
    for seen, _ in looks(lambda left: api.get(path, wait=min(5.0, left)), seconds=timeout):
        found = seen or found
        if found["status"] in TERMINAL:
            break
    return found


def follow(
    api: Api, path: str, accepted: dict[str, Any], *, timeout: float, quiet: bool, total: str = "total"
) -> dict[str, Any]:
    """What was accepted, at its end or at the timeout, with a progress bar meanwhile.

    ``total``: the member that says how many there are to be ``completed``.
    """
    work_id = accepted["workflow_id"]
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    found: dict[str, Any] = {"completed": 0, **accepted}
    with nullcontext() if quiet else Progress(*columns, console=console) as progress:
        task = progress.add_task(work_id, total=None) if progress else None
        for seen, note in looks(lambda _: api.get(path), seconds=timeout):
            found = seen or found
            if progress and task is not None:
                text = f"{work_id} {found['status']}{note and f' ({note})'}"
                progress.update(task, description=text, completed=found["completed"], total=found.get(total))
            if found["status"] in TERMINAL:
                break
    return found
