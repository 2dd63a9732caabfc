"""Checks that every HTTP server of Holdfast makes before it handles a request. Pure ASGI."""

from __future__ import annotations

import json
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holdfast.origin import host_name, is_foreign, is_known_host
from holdfast.probe_paths import PROBE_PATHS

UNKNOWN_HOST = (
    "This server does not go by the name in the Host header. Use its address, or add the name to "
    "HOLDFAST_ALLOWED_HOSTS."
)
FOREIGN = "A page of another origin sent this, and such requests are not served. Open Holdfast's own page."

# Names of the Compose services: Prometheus uses them, for probe paths only. Any network may resolve a name
# without dots, so a page may be loaded from such a name (DNS rebinding).
SERVICE_NAMES = frozenset({"api", "worker"})

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
"""Default headers of every answer: no embedding, no framing, no content sniffing, no caching."""

Refuse = Callable[[Scope, int, str, str], Response]
"""Builds the refusal from scope, status, kind and detail."""


class Guard:
    """Middleware that answers 421 to an unknown host name and 403 to requests from pages of other origins."""

    def __init__(self, app: ASGIApp, names: frozenset[str], refuse: Refuse | None = None) -> None:
        self.app = app
        self.names = names
        self.refuse = refuse or plain_refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request. Passes everything except HTTP through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self.app)(scope, receive, secured)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        is_probe = scope["method"] in ("GET", "HEAD") and scope["path"] in PROBE_PATHS
        if not is_known_host(host, self.names) and not (is_probe and host_name(host) in SERVICE_NAMES):
            return self.refuse(scope, 421, "unknown-host", UNKNOWN_HOST)
        fetched = (headers.get(f"sec-fetch-{part}") for part in ("site", "mode", "dest"))
        if is_foreign(scope["method"], host, headers.get("origin"), *fetched):
            return self.refuse(scope, 403, "foreign-page", FOREIGN)
        return None


def plain_refusal(scope: Scope, status: int, kind: str, detail: str) -> Response:
    """Builds a problem document without the members that only the API adds."""
    del scope
    document = {"type": f"urn:holdfast:problem:{kind}", "status": status, "detail": detail}
    return Response(json.dumps(document), status, media_type="application/problem+json")
