"""Commands about messages, events and streams: ``send``, ``events``, ``stream``."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from holdfast.cli.shown import (
    Api,
    JsonOption,
    KeyOption,
    Refused,
    TimeoutOption,
    Unreachable,
    UrlOption,
    lines_of_value,
    plain_errors,
    show,
    show_lines,
    table,
)
from holdfast.cli.waiting import why_away
from holdfast.path_segment import workflow_path

_RETRY_SECONDS = 0.5


def send(
    workflow_id: Annotated[str, typer.Argument(help="the workflow that receives it")],
    message: Annotated[str, typer.Argument(help="a JSON value; anything else is sent as text")],
    *,
    topic: Annotated[str | None, typer.Option(help="what DBOS.recv asks for [default: none]")] = None,
    key: KeyOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a workflow a message, which it receives once."""
    try:
        value = json.loads(message)
    except ValueError:
        value = message
    body = {"message": value} if topic is None else {"message": value, "topic": topic}
    with plain_errors():
        answer = Api(url).post(workflow_path(workflow_id, "messages"), body, key=key or uuid.uuid4().hex)
        show(
            answer, as_json=as_json, human=lambda: f"{workflow_id}: message {answer['message_id']} is stored"
        )


def events(workflow_id: str, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show the events that a workflow has set."""
    with plain_errors():
        api = Api(url)
        page = api.get(workflow_path(workflow_id, "events"))
        found = page["events"]
        while page["next_after"] is not None:
            page = api.get(workflow_path(workflow_id, "events"), after=page["next_after"])
            found += page["events"]
        rows = [[event["key"], _text(event)] for event in found]
        data = {"workflow_id": workflow_id, "events": found}
        show(data, as_json=as_json, human=lambda: table(f"{len(rows)} events", ["key", "value"], rows))


def stream(
    workflow_id: str,
    key: str,
    *,
    offset: Annotated[int, typer.Option(min=0, help="the first value")] = 0,
    timeout: TimeoutOption = 3600.0,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Follow a workflow's stream to its end, through restarts of the API; exit code 1 if it has not ended."""
    with plain_errors():
        found: list[dict[str, Any]] = []
        end: dict[str, Any] | None = None
        for kind, data in _follow(Api(url), workflow_path(workflow_id, "streams", key), offset, timeout):
            if kind == "end":
                end = data
            elif as_json:
                found.append(data)
            else:
                show_lines(lines_of_value(_text(data)))
        whole = {"workflow_id": workflow_id, "key": key, "values": found, "end": end}
        show(whole, as_json=as_json, human=lambda: None)
        raise typer.Exit(0 if end else 1)


def _follow(api: Api, path: str, offset: int, timeout: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each event of a stream, until its end or the timeout."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            for kind, data in api.events(path, seconds=deadline - time.monotonic(), offset=offset):
                yield kind, data
                if kind == "end":
                    return
                offset = data["offset"] + 1
        except (Unreachable, Refused) as error:
            why_away(error)
        time.sleep(_RETRY_SECONDS)


def _text(stored: dict[str, Any]) -> str:
    """Returns a stored value as text, which says if a part of it is missing."""
    cut = f" … ({stored['bytes']:,} bytes)" if stored["shortened"] else ""
    text = (
        stored["value"]
        if isinstance(stored["value"], str)
        else json.dumps(stored["value"], ensure_ascii=False)
    )
    return f"{text}{cut}"
