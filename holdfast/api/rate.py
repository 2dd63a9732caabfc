"""How often one client may ask: a token bucket an address, in this process's memory.

Own code, since what exists keeps an entry for everyone who ever came, or a timer thread, or Redis. Behind a
proxy all clients have the proxy's address and share one bucket: X-Forwarded-For is what anyone may write, and
is not believed. There, the proxy limits.
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
"""Buckets kept at most; the one that was used longest ago is forgotten, and so starts full again."""


class Buckets:
    """A bucket of `burst` requests for each client, filled by `rate` a second."""

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
        """0 when `client` may ask now, else the seconds until it may. A refusal costs nothing."""
        now = self._clock()
        left, then = self._buckets.pop(client, (float(self.burst), now))
        left = min(self.burst, left + (now - then) * self.rate)
        wait = 0.0 if left >= 1 else (1 - left) / self.rate
        self._buckets[client] = (left if wait else left - 1, now)
        if len(self._buckets) > self.clients:
            self._buckets.popitem(last=False)
        return wait


class RateLimit:
    """Answers 429 to a client that asks more often than it may; the probes are exempt."""

    def __init__(self, app: ASGIApp, buckets: Buckets) -> None:
        self.app = app
        self.buckets = buckets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; anything but HTTP passes through."""
        if scope["type"] == "http" and scope["path"] not in PROBE_PATHS:
            address = (scope.get("client") or ("unknown", 0))[0]
            wait = self.buckets.take(client_key(address))
            if wait:
                response = problem(
                    scope,
                    429,
                    detail=f"At most {self.buckets.rate:g} requests a second from one client. "
                    "Send it again after the time in Retry-After.",
                    headers={"Retry-After": str(math.ceil(wait))},
                )
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)
