"""The text of /metrics. It is shared, because it takes this process's interpreter tens of milliseconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from holdfast.origin import client_key
from holdfast.rate import Buckets

SHARED_SECONDS = 1.0
"""Scrapes within this time get the same text."""
SCRAPES_PER_SECOND = 20
SCRAPES_BURST = 100


class Exposition:
    """Renders the metrics of this process for any number of clients, each with a rate limit.

    ``prepare`` runs before each rendering, to set the gauges that are read at a scrape.
    """

    def __init__(
        self, prepare: Callable[[], None] = lambda: None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._prepare = prepare
        self._clock = clock
        self._buckets = Buckets(SCRAPES_PER_SECOND, SCRAPES_BURST, clock=clock)
        self._lock = threading.Lock()
        self._text = b""
        self._fresh_until = float("-inf")

    def admit(self, address: str) -> float:
        """Admits a scrape of this client and returns 0, or returns the seconds to wait."""
        return self._buckets.take(client_key(address))

    def fresh(self) -> bytes | None:
        """Returns the shared text, or None if it is older than `SHARED_SECONDS`."""
        return self._text if self._clock() < self._fresh_until else None

    def text(self) -> bytes:
        """Returns the shared text. One caller renders it if it is too old; the others wait for that."""
        from prometheus_client import generate_latest  # an attached application may lack it

        with self._lock:
            if self._clock() >= self._fresh_until:
                self._prepare()
                self._text = generate_latest()
                self._fresh_until = self._clock() + SHARED_SECONDS
            return self._text
