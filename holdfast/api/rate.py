"""Rate limit per client, for every call except the probes.

Behind a proxy all clients have the proxy's address and share one bucket: X-Forwarded-For is not trusted,
because any client can set it. In that case the proxy must limit.
"""

from __future__ import annotations

import math

from starlette.types import ASGIApp, Receive, Scope, Send

from holdfast.api.problems import problem
from holdfast.origin import client_key
from holdfast.probe_paths import PROBE_PATHS
from holdfast.rate import Buckets


class RateLimit:
    """Middleware that answers 429 to a client above its rate. Probes are exempt, /metrics has its own."""

    def __init__(self, app: ASGIApp, buckets: Buckets) -> None:
        self.app = app
        self.buckets = buckets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request. Passes everything except HTTP through."""
        if scope["type"] == "http" and scope["path"] not in PROBE_PATHS:
            address = (scope.get("client") or ("unknown", 0))[0]
            wait = self.buckets.take(client_key(address))
            if wait:
                response = problem(
                    scope,
                    429,
                    detail=f"At most {self.buckets.rate:g} requests per second are allowed from one client. "
                    "Send it again after the time in Retry-After.",
                    headers={"Retry-After": str(math.ceil(wait))},
                )
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)
