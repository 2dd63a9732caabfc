"""Shared by all commands: the ``--json`` option, the API client, and one-line errors."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import psycopg2
import typer
from pydantic import ValidationError
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from holdfast.cli.tables import FittedTable
from holdfast.errors import Conflict, DatabaseNotPrepared
from holdfast.installations.detection import admin_token, url
from holdfast.installations.installation import NothingRunsError
from holdfast.installations.native_error import NativeError
from holdfast.postgres.outage import is_outage, unavailable
from holdfast.visible import visible, visible_lines

if TYPE_CHECKING:
    import httpx


class SafeConsole(Console):
    """A console that shows control characters in what it is given, and sends only its own to the terminal."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                # A link's address would reach the terminal as it is.
                style = segment.style and segment.style.update_link(None)
                yield Segment(visible_lines(segment.text), style)


console = SafeConsole(highlight=False)

JsonOption = Annotated[
    bool, typer.Option("--json", metavar="", help="print one JSON document and nothing else")
]
KeyOption = Annotated[str | None, typer.Option(help="Idempotency-Key [default: a random one]")]
WaitOption = Annotated[
    bool, typer.Option("--wait", metavar="", help="wait for the end; exit code 1 unless SUCCESS")
]
TimeoutOption = Annotated[float, typer.Option(help="longest wait, in seconds")]
UrlOption = Annotated[
    str | None,
    typer.Option("--url", envvar="HOLDFAST_URL", help="the API [default: the running one, else port 8000]"),
]


_BREAK = re.compile(r"\s*\n\s*")

# The API sends a comment every 10 s while a stream has no events.
_STREAM_TIMEOUT_SECONDS = 25.0


class Refused(Exception):  # noqa: N818 - what the API said, not a fault of ours
    """The API did not accept a request. Contains its answer."""

    def __init__(self, status: int, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        """The last part of the problem's `type`, for example `database-unavailable`."""


class Unreachable(Exception):  # noqa: N818 - the API is away, which is no fault of ours
    """The API did not answer a request, or the connection broke."""


class Api:
    """The API over HTTP. Raises `Refused` for an unsuccessful answer, `Unreachable` for none.

    Its HTTP client belongs to the extra `stack`: without it, only the commands that use no API work.

    The client sends the admin token only after the API has asked for it: for control operations, and for all
    requests if HOLDFAST_REQUIRE_TOKEN is true.
    """

    def __init__(self, address: str | None = None) -> None:
        import httpx

        self.address = (address or url()).rstrip("/")
        if not self.address.startswith(("http://", "https://")):
            raise NothingRunsError(f"{self.address} is no address: write http://{self.address}")
        # A kept connection may belong to a process that has ended.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.Client(base_url=self.address, timeout=10.0, trust_env=False, limits=limits)

    def get(self, path: str, **query: Any) -> Any:
        """Sends a GET request and returns the JSON body."""
        return self._json(self._send("GET", path, params=query))

    def post(self, path: str, body: Any = None, *, key: str | None = None) -> Any:
        """Sends a POST request, with an Idempotency-Key if given, and returns the JSON body."""
        headers = {"Idempotency-Key": key} if key else {}
        return self._json(self._send("POST", path, json=body, headers=headers))

    def delete(self, path: str, **query: Any) -> Any:
        """Sends a DELETE request and returns the JSON body."""
        return self._json(self._send("DELETE", path, params=query))

    def events(self, path: str, *, seconds: float, **query: Any) -> Iterator[tuple[str, Any]]:
        """Yields kind and data of each server-sent event, until the stream ends or ``seconds`` are over.

        Raises `Unreachable` if the connection breaks.
        """
        deadline = time.monotonic() + seconds
        with (
            self._transport_errors(),
            self._client.stream("GET", path, params=query, timeout=_STREAM_TIMEOUT_SECONDS) as answer,
        ):
            if answer.status_code == 401 and self._learn_token():
                yield from self.events(path, seconds=seconds, **query)
                return
            if not answer.is_success:
                answer.read()
                self._json(answer)
            kind = ""
            for line in answer.iter_lines():
                name, _, text = line.partition(": ")
                if name == "event":
                    kind = text
                elif name == "data":
                    yield kind, json.loads(text)
                if time.monotonic() > deadline:
                    return

    def text(self, path: str) -> str:
        """Sends a GET request and returns the body as text."""
        answer = self._send("GET", path)
        if answer.is_error:
            raise Refused(answer.status_code, f"{path} answered {answer.status_code}")
        return answer.text

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        with self._transport_errors():
            answer = self._client.request(method, path, **options)
            if answer.status_code == 401 and self._learn_token():
                answer = self._client.request(method, path, **options)
        return answer

    @contextmanager
    def _transport_errors(self) -> Iterator[None]:
        """Raises `Unreachable` instead of the HTTP client's own errors of the connection."""
        import httpx

        try:
            yield
        except httpx.TransportError as error:
            raise Unreachable(f"{self.address}: {error}") from error

    def _learn_token(self) -> bool:
        """Whether there is an admin token that was not sent yet. If so, later requests send it."""
        token = None if "Authorization" in self._client.headers else admin_token(self.address)
        if token:
            self._client.headers["Authorization"] = f"Bearer {token}"
        return bool(token)

    def _json(self, answer: httpx.Response) -> Any:
        if answer.is_success:
            return answer.json()
        kind = ""
        try:
            problem = answer.json()
            message = str(problem.get("detail") or problem.get("title"))
            kind = str(problem.get("type", "")).rpartition(":")[2]
        except (ValueError, AttributeError):
            message = answer.text[:200]
        raise Refused(answer.status_code, f"{answer.status_code}: {message}", kind)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turns errors that the user can fix into one line on standard error and exit code 1."""
    try:
        yield
    except Unreachable as error:
        reason = f"the API does not answer at {error}; is it up? `holdfast up` starts it"
    except (Refused, NothingRunsError, NativeError, DatabaseNotPrepared, Conflict) as error:
        reason = str(error)
    except ModuleNotFoundError as error:
        reason = (
            f"this command needs the package {error.name}: install Holdfast's wheel with its extra, "
            "holdfast_dbos-….whl[stack]"
        )
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
    except psycopg2.Error as error:
        said = str(error).strip()
        reason = f"{unavailable(error).message} ({said})" if is_outage(error) else f"PostgreSQL: {said}"
    except ValidationError as error:
        reason = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
    except KeyboardInterrupt:
        reason = "interrupted"
    else:
        return
    print(f"holdfast: {visible(_BREAK.sub(' ', reason.strip()))}", file=sys.stderr)
    raise typer.Exit(1)


def show(data: Any, *, as_json: bool, human: Callable[[], Any]) -> None:
    """Prints the data as JSON, or the result of ``human``.

    That is one line, a list of lines, or something of rich's; None if ``human`` has printed by itself.
    """
    if as_json:
        print(visible_lines(json.dumps(data, indent=2, default=str, ensure_ascii=False)))
    elif (shown := human()) is not None:
        lines = [shown] if isinstance(shown, str) else shown
        if isinstance(lines, list):
            show_lines(lines)
        else:
            # A table in a file is wider than what rich takes for the console.
            console.print(shown, markup=False, crop=False)


class ValueLine(str):
    """A line of a value, in which tabs separate its columns."""

    __slots__ = ()


def show_lines(lines: list[str]) -> None:
    """Prints lines, with control characters shown. Rich would wrap them, and replace tabs by spaces."""
    text = (visible_lines(line) if isinstance(line, ValueLine) else visible(line) for line in lines)
    print("\n".join(text), flush=True)


def lines_of(value: Any) -> list[str]:
    """Returns a value or an error as lines for `show`. Those after the first cannot be taken for ours."""
    first, *rest = str(value).replace("\r\n", "\n").split("\n")
    return [first, *(f"    {line}" for line in rest)]


def lines_of_value(value: Any) -> list[str]:
    """Returns the lines of a value, which keep their tabs."""
    return [ValueLine(line) for line in lines_of(value)]


def table(
    title: str, columns: list[str], rows: list[list[Any]], droppable: Sequence[str] = ()
) -> FittedTable:
    """Builds a table that fits a terminal. None becomes a dash. ``droppable`` columns are dropped first."""
    return FittedTable(title, columns, rows, droppable)


def age(seconds: float | None) -> str | None:
    """Formats a number of seconds for people."""
    return None if seconds is None else f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
