"""Rate limit per client: one token bucket per address, in this process's memory.

It is our own code, because existing libraries keep an entry for every client ever seen, or need a timer
thread or Redis.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

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
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, client: str) -> float:
        """Takes a token and returns 0, or returns the seconds to wait if the bucket is empty."""
        with self._lock:
            now = self._clock()
            left, then = self._buckets.pop(client, (float(self.burst), now))
            left = min(self.burst, left + (now - then) * self.rate)
            wait = 0.0 if left >= 1 else (1 - left) / self.rate
            self._buckets[client] = (left if wait else left - 1, now)
            if len(self._buckets) > self.clients:
                self._buckets.popitem(last=False)
        return wait
