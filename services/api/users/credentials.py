"""A process-wide cache of one secret: expiry, refresh, single flight, fingerprint. Thread-safe."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Literal, NoReturn, TypedDict

from holdfast.errors import CredentialUnavailable

_FINGERPRINT_DIGITS = 12


class Credential:
    """A secret that does not show itself: not in repr, str or format, and it refuses to be pickled.

    ``fingerprint`` is the first 12 hex digits of the value's SHA-256, safe to log; ``fetched_at`` is
    the cache's clock when the fetch began.
    """

    __slots__ = ("_value", "fetched_at", "fingerprint")

    def __init__(self, value: str, fetched_at: float) -> None:
        self._value = value
        self.fetched_at = fetched_at
        self.fingerprint = hashlib.sha256(value.encode()).hexdigest()[:_FINGERPRINT_DIGITS]

    def reveal(self) -> str:
        """The secret itself. Use it and forget it: never return it from a step, never log it."""
        return self._value

    def __repr__(self) -> str:
        return f"Credential(fingerprint={self.fingerprint!r})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        # A workflow's inputs and steps' outputs are pickled or made JSON; both must fail on a secret.
        raise TypeError("a Credential must not leave its process; pass its fingerprint instead")


Use = Literal["hit", "miss", "error"]
"""What became of one `get`: served from the cache, after a fetch, or not at all."""


class CacheSnapshot(TypedDict):
    """What the cache did and holds, without the secret. The last three are None while it is empty."""

    hits: int
    misses: int
    fetches: int
    errors: int
    age_seconds: float | None
    expires_in_seconds: float | None
    fingerprint: str | None


class CachedCredential:
    """Holds one secret for `ttl_seconds` after the start of the fetch that brought it.

    `fetch` returns the secret; it may block and may raise. `clock` counts seconds and never goes back
    (``time.monotonic``). `on_use` is told of every `get`. A fetch that takes longer than `ttl_seconds`
    serves those who wait for it only.
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
        """The cached credential if it is fresh, else a fetched one. Blocks while it is fetched.

        Callers that miss together share one fetch: its result, or its error, which is not cached.
        Raises `CredentialUnavailable`.
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
        """Fetch now, or join the fetch under way; `get` serves the held value meanwhile, if fresh.

        To be certain of a value read after this moment, `invalidate` and `get`. Counts neither as hit
        nor as miss. Raises `CredentialUnavailable`; the held value then stays until it expires.
        """
        with self._lock:
            flight, leads = self._join()
        return self._land(flight, leads)

    def invalidate(self) -> None:
        """Forget the value. A fetch under way still answers those who wait for it, and nobody after."""
        with self._lock:
            self._held = None
            self._flight = None

    def snapshot(self) -> CacheSnapshot:
        """Counters since the start of the process, and age, time left and fingerprint of the value held."""
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
        """The flight under way, or a new one that the caller leads. Called with the lock held."""
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
            # One raise each: threads that raise a shared exception grow its traceback together.
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
            # The leader's thread is being stopped: let it, but do not leave the others waiting for ever.
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
            # Invalidated meanwhile: this value may be the one that had to go, so nobody else gets it.
            if self._flight is flight:
                self._flight = None
                self._held = fetched or self._held


def _unavailable(error: Exception) -> CredentialUnavailable:
    # Only the operating system's words are passed on, and only its errors are chained: any other
    # exception might carry the secret (UnicodeDecodeError holds the bytes it was reading).
    if not isinstance(error, OSError):
        kind = type(error).__name__
        return CredentialUnavailable(f"The credential's source could not be read ({kind}). Check it.")
    detail = f"{type(error).__name__}: {error.strerror}"
    unavailable = CredentialUnavailable(f"The credential's source could not be read ({detail}). Check it.")
    unavailable.__cause__ = error
    return unavailable
