"""Paths as they were sent: a slash inside of a percent-encoded id does not end the id.

Servers decode a path before it is routed, so `/workflows/a%2Fsteps` would be the steps of `a`. Here the path
is decoded segment by segment. What would mislead the router is replaced until a parameter is read.
"""

from __future__ import annotations

from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from holdfast.path_segment import decode_segment

# Lone surrogates stand for them. No path can contain these: they are not UTF-8, and `surrogateescape` makes
# only U+DC80 and above. `$` of a route's pattern also matches before a last newline.
_HIDDEN = {ord("/"): 0xDC2F, ord("\n"): 0xDC0A}
_SHOWN = {hidden: plain for plain, hidden in _HIDDEN.items()}


def restored(text: Any) -> Any:
    """Returns a parameter, or a whole path, with the characters that `EncodedPath` has replaced."""
    return text.translate(_SHOWN) if isinstance(text, str) else text


class EncodedPath:
    """Middleware that sets `scope["path"]` from the path as it was sent."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request. Passes everything except HTTP through."""
        if scope["type"] == "http" and "raw_path" in scope:
            # A URL has no bytes beyond ASCII. If it does, `unquote` leaves them as they are.
            segments = scope["raw_path"].decode("utf-8", "surrogateescape").split("/")
            path = "/".join(decode_segment(each).translate(_HIDDEN) for each in segments)
            # A copy: the server writes its own log with the path that it knows.
            scope = {**scope, "path": path}
        await self.app(scope, receive, send)
