"""Rate limit per client: one token bucket per address, in this process's memory.

It is our own code, because existing libraries keep an entry for every client ever seen, or need a timer
thread or Redis. Behind a proxy all clients have the proxy's address and share one bucket: X-Forwarded-For is
not trusted, because any client can set it. In that case the proxy must limit.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from holdfast.api.problems import problem
from holdfast.origin import client_key
from holdfast.probe_paths import PROBE_PATHS

CLIENTS = 10_000
"""Maximum number of buckets. The least recently used one is dropped, so its client starts with a full one."""


class Buckets:
    """A bucket of `burst` requests for each client, refilled by `rate` requests per second."""

    def __init__(
        self, rate: float, burst: int, *, clients: int = CLIENTS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate = rate
        self.burst = burst
        self.clients = clients
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, client: str) -> float:
        """Takes a token and returns 0, or returns the seconds to wait if the bucket is empty."""
        now = self._clock()
        left, then = self._buckets.pop(client, (float(self.burst), now))
        left = min(self.burst, left + (now - then) * self.rate)
        wait = 0.0 if left >= 1 else (1 - left) / self.rate
        self._buckets[client] = (left if wait else left - 1, now)
        if len(self._buckets) > self.clients:
            self._buckets.popitem(last=False)
        return wait


class RateLimit:
    """Middleware that answers 429 to a client above its rate. The probes are exempt."""

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
