"""A process-wide cache of one secret: expiry, refresh, single flight, fingerprint. Thread-safe."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Literal, NoReturn, TypedDict

from services.api.users.errors import CredentialUnavailable

_FINGERPRINT_DIGITS = 12


class Credential:
    """A secret that hides its value from repr, str and format, and refuses to be pickled.

    ``fingerprint`` is the first 12 hex digits of the value's SHA-256 and safe to log. ``fetched_at`` is the
    cache's clock at the start of the fetch.
    """

    __slots__ = ("_value", "fetched_at", "fingerprint")

    def __init__(self, value: str, fetched_at: float) -> None:
        self._value = value
        self.fetched_at = fetched_at
        self.fingerprint = hashlib.sha256(value.encode()).hexdigest()[:_FINGERPRINT_DIGITS]

    def reveal(self) -> str:
        """Returns the secret. Do not keep it, return it from a step, or log it."""
        return self._value

    def __repr__(self) -> str:
        return f"Credential(fingerprint={self.fingerprint!r})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        # Workflow inputs and step outputs are pickled or encoded as JSON. Both must fail on a secret.
        raise TypeError("a Credential must not leave its process; pass its fingerprint instead")


Use = Literal["hit", "miss", "error"]
"""The result of one `get`: from the cache, after a fetch, or without a value."""


class CacheSnapshot(TypedDict):
    """Counters and state of the cache, without the secret. The last three are None while it is empty."""

    hits: int
    misses: int
    fetches: int
    errors: int
    age_seconds: float | None
    expires_in_seconds: float | None
    fingerprint: str | None


class CachedCredential:
    """Holds one secret for `ttl_seconds` after the start of its fetch.

    `fetch` returns the secret. It may block and may raise. `clock` counts seconds and never goes back
    (``time.monotonic``). `on_use` is called at every `get`. A fetch that takes longer than `ttl_seconds`
    serves only the callers that wait for it.
    """

    def __init__(
        self,
        fetch: Callable[[], str],
        *,
        ttl_seconds: float,
        clock: Callable[[], float],
        on_use: Callable[[Use], None] = lambda _: None,
    ) -> None:
        if ttl_seconds <= 0:
            raise ValueError("ttl_seconds must be positive")
        self._fetch = fetch
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._on_use = on_use
        self._lock = threading.Lock()
        self._held: Credential | None = None
        self._flight: Future[Credential] | None = None
        self._hits = self._misses = self._fetches = self._errors = 0

    def get(self) -> Credential:
        """Returns the cached credential if it is fresh, else fetches one and blocks meanwhile.

        Concurrent misses share one fetch: its result, or its error, which is not cached. Raises
        `CredentialUnavailable`.
        """
        with self._lock:
            held = self._held
            if held is not None and self._clock() - held.fetched_at < self._ttl_seconds:
                self._hits += 1
                self._on_use("hit")
                return held
            self._misses += 1
            flight, leads = self._join()
        try:
            credential = self._land(flight, leads)
        except CredentialUnavailable:
            self._on_use("error")
            raise
        self._on_use("miss")
        return credential

    def refresh(self) -> Credential:
        """Fetches now, or joins a running fetch. Meanwhile `get` returns the held value, if fresh.

        A joined fetch may have read an older value: to exclude that, call `invalidate` and `get`. Counts
        neither as hit nor as miss. Raises `CredentialUnavailable`; the held value then stays until it
        expires.
        """
        with self._lock:
            flight, leads = self._join()
        return self._land(flight, leads)

    def invalidate(self) -> None:
        """Discards the value. A running fetch still serves its present waiters, but no later callers."""
        with self._lock:
            self._held = None
            self._flight = None

    def snapshot(self) -> CacheSnapshot:
        """Returns the counters since process start, and the held value's age, time left and fingerprint."""
        with self._lock:
            held = self._held
            age = None if held is None else self._clock() - held.fetched_at
            return {
                "hits": self._hits,
                "misses": self._misses,
                "fetches": self._fetches,
                "errors": self._errors,
                "age_seconds": age,
                "expires_in_seconds": None if age is None else max(0.0, self._ttl_seconds - age),
                "fingerprint": None if held is None else held.fingerprint,
            }

    def _join(self) -> tuple[Future[Credential], bool]:
        """Returns the running fetch, or a new one that the caller performs. Called with the lock held."""
        if self._flight is not None:
            return self._flight, False
        self._flight = Future()
        self._fetches += 1
        return self._flight, True

    def _land(self, flight: Future[Credential], leads: bool) -> Credential:
        if leads:
            self._fly(flight)
        try:
            return flight.result()
        except CredentialUnavailable as error:
            # Each waiter raises its own exception: a shared one would collect the tracebacks of all threads.
            raise CredentialUnavailable(error.message) from error.__cause__

    def _fly(self, flight: Future[Credential]) -> None:
        began = self._clock()
        fetched: Credential | None = None
        failure: BaseException = CredentialUnavailable()
        try:
            value = self._fetch()
            if value:
                fetched = Credential(value, began)
            else:
                failure = CredentialUnavailable("The credential's source is empty. Write the secret into it.")
        except Exception as error:
            failure = _unavailable(error)
        except BaseException as stop:
            # The fetching thread is being stopped. It must not leave the other waiters blocked for ever.
            self._settle(flight, None)
            flight.set_exception(CredentialUnavailable())
            raise stop from None
        self._settle(flight, fetched)
        if fetched is not None:
            flight.set_result(fetched)
        else:
            flight.set_exception(failure)

    def _settle(self, flight: Future[Credential], fetched: Credential | None) -> None:
        with self._lock:
            self._errors += fetched is None
            # After a concurrent `invalidate`, this value may be the discarded one: it serves only its
            # waiters.
            if self._flight is flight:
                self._flight = None
                self._held = fetched or self._held


def _unavailable(error: Exception) -> CredentialUnavailable:
    # Only errors of the operating system are chained, and only their message is passed on. Any other
    # exception might contain the secret (UnicodeDecodeError holds the bytes that it was reading).
    if not isinstance(error, OSError):
        kind = type(error).__name__
        return CredentialUnavailable(f"The credential's source could not be read ({kind}). Check it.")
    detail = f"{type(error).__name__}: {error.strerror}"
    unavailable = CredentialUnavailable(f"The credential's source could not be read ({detail}). Check it.")
    unavailable.__cause__ = error
    return unavailable
