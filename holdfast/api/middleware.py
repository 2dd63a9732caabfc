"""Middleware that every request passes before it reaches a route: id, metrics, body rules. Pure ASGI."""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import Callable
from typing import Any, NoReturn

from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holdfast.api.problems import failure, problem

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
WITHOUT_BODY = METHODS - {"POST", "PUT", "PATCH"}
BODY_TIMEOUT_SECONDS = 30.0
# The server continues to read a refused body for a moment. Otherwise a client that is still sending gets a
# connection reset in place of the answer.
DRAIN_BYTES = 16 * 1024 * 1024
DRAIN_SECONDS = 2.0
BODIES_BYTES = 64 * 1024 * 1024
"""Limit for all bodies of requests whose answer has not begun: each connection may send one and then wait."""
SMALL_BYTES = 4096
"""Up to this size a body is accepted beyond that limit, so that large bodies keep no small request out."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

Observe = Callable[[str, str, int, float], None]
"""Called once per request with method, route template, status and seconds."""


class RequestContext:
    """Gives each request an id (a valid `X-Request-ID` is kept), records metrics, and answers failures."""

    def __init__(self, app: ASGIApp, observe: Observe) -> None:
        self.app = app
        self.observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request. Passes everything except HTTP through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        header = Headers(scope=scope).get("x-request-id", "")
        request_id = header if _REQUEST_ID.fullmatch(header) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        began = time.monotonic()
        status = 0

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, tagged)
        except Exception as error:
            response = failure(scope, error)
            if status:
                raise  # part of the answer is sent: only a broken connection can signal the failure
            await response(scope, receive, tagged)
        finally:
            method = scope["method"] if scope["method"] in METHODS else "OTHER"
            route = getattr(scope.get("route"), "path", None) or "unmatched"
            self.observe(method, route, status or 499, time.monotonic() - began)


class RequestBody:
    """Reads the whole body within its limits, and passes only JSON objects in UTF-8 to the routes.

    Answers 413, 415, 408, 400 or 422 itself, so that a route never sees a body that is not an object.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request. Passes everything except HTTP through."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        no_body = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        # What no route serves is answered 404 or 405 without its body.
        if scope["type"] != "http" or no_body or (scope["method"] in WITHOUT_BODY and not _is_served(scope)):
            await self.app(scope, receive, send)
            return
        held = _Held(self)
        try:
            await self._serve(scope, receive, send, held)
        finally:
            held.release()

    async def _serve(self, scope: Scope, receive: Receive, send: Send, held: _Held) -> None:
        headers = Headers(scope=scope)
        body: bytes | None = None
        try:
            body = await self._read(scope["method"], headers.get("content-length", "0"), receive, held)
            if body:
                _require_json(headers.get("content-type", ""))
                _require_object(body)
        except _RefusedError as refused:
            # Its frames keep what was read, and so do those of the error that caused it.
            body = refused.__traceback__ = refused.__context__ = None
            held.release()
            await self._drain(refused, receive)
            response = problem(
                scope,
                refused.status,
                kind=refused.kind,
                detail=refused.detail,
                headers=refused.headers,
            )
            await response(scope, receive, send)
            return
        if body is None:
            return

        async def answer(message: Message) -> None:
            held.release()
            await send(message)

        replayed = _replay(body, receive)
        del body  # an answer may last for hours
        await self.app(scope, replayed, answer)

    async def _read(self, method: str, declared: str, receive: Receive, held: _Held) -> bytes | None:
        """Reads the whole body. Returns None if the client disconnects before its end."""
        if not declared.isdecimal():
            raise _RefusedError(400, "bad-request", "Content-Length must be a number of bytes.", unread=True)
        limit = 0 if method in WITHOUT_BODY else self.max_body_bytes
        if len(declared) > 18 or int(declared) > limit:
            raise _too_large(limit)
        chunks: list[bytes] = []
        # The bound leaves room for at least one body of the permitted size.
        bound = max(BODIES_BYTES, self.max_body_bytes)
        try:
            async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    chunks.append(message.get("body", b""))
                    held.add(len(chunks[-1]))
                    if held.size > limit:
                        raise _too_large(limit)
                    if self.held_bytes > bound and held.size > SMALL_BYTES:
                        detail = "Too many request bodies are being processed. Send this one again shortly."
                        raise _RefusedError(503, "busy", detail, unread=True)
                    more = message.get("more_body", False)
        except TimeoutError:
            raise _RefusedError(408, "request-timeout", None) from None
        return b"".join(chunks)

    async def _drain(self, refused: _RefusedError, receive: Receive) -> None:
        if not refused.unread:
            return
        left = DRAIN_BYTES
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        return
        except TimeoutError:
            return


class _Held:
    """The share of one request in the bytes that its reader holds."""

    def __init__(self, reader: RequestBody) -> None:
        self._reader = reader
        self.size = 0

    def add(self, size: int) -> None:
        self.size += size
        self._reader.held_bytes += size

    def release(self) -> None:
        self._reader.held_bytes -= self.size
        self.size = 0


class _RefusedError(Exception):
    def __init__(self, status: int, kind: str, detail: str | None, *, unread: bool = False) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.unread = unread or status == 408

    @property
    def headers(self) -> dict[str, str]:
        """Returns the headers of the answer."""
        close = {"Connection": "close"} if self.unread else {}
        return close | ({"Retry-After": "1"} if self.status == 503 else {})


def _is_served(scope: Scope) -> bool:
    return any(route.matches(scope)[0] is Match.FULL for route in scope["app"].router.routes)


def _too_large(limit: int) -> _RefusedError:
    if limit:
        detail = f"The body may have at most {limit} bytes. Send a smaller one."
    else:
        detail = "This method takes no body. Send the request without one."
    return _RefusedError(413, "body-too-large", detail, unread=True)


def _require_json(content_type: str) -> None:
    media, _, parameters = content_type.partition(";")
    charset = parameters.strip().lower()
    if media.strip().lower() != "application/json" or charset not in ("", "charset=utf-8", 'charset="utf-8"'):
        raise _RefusedError(
            415, "unsupported-media-type", "Send the body as JSON: Content-Type: application/json."
        )


def _require_object(body: bytes) -> None:
    try:
        value: Any = json.loads(
            body.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_each_name_once
        )
    except UnicodeDecodeError as error:
        raise _RefusedError(400, "malformed-json", f"The body is not UTF-8: byte {error.start}.") from None
    except RecursionError:
        raise _RefusedError(400, "malformed-json", "The JSON in the body is nested too deeply.") from None
    except json.JSONDecodeError as error:
        detail = f"The body is not valid JSON: {error.msg} at character {error.pos}."
        raise _RefusedError(400, "malformed-json", detail) from None
    except ValueError:
        detail = "The JSON in the body has a number that is not finite, or has too many digits."
        raise _RefusedError(400, "malformed-json", detail) from None
    if not isinstance(value, dict):
        raise _RefusedError(422, "invalid-request", "The body must be a JSON object.")


def _each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Rejects duplicate names: parsers differ, so a proxy may have checked the other value."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _RefusedError(400, "malformed-json", "An object in the body has the same name twice.")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _replay(body: bytes, receive: Receive) -> Receive:
    """Returns a receive function that returns the body once, then the real messages (a disconnect)."""
    left: list[bytes] = [body]
    del body

    async def replayed() -> Message:
        if not left:
            return await receive()
        return {"type": "http.request", "body": left.pop(), "more_body": False}

    return replayed
