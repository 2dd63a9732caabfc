"""Expiry, single flight, invalidation; the secret does not show."""

import copy
import hashlib
import json
import pickle
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.api.users.credentials import CachedCredential, Credential
from services.api.users.errors import CredentialUnavailable

SECRET = "correct horse battery staple"
WAIT_SECONDS = 10.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Source:
    """A fetch that the test holds: `entered` counts, `release` lets it answer."""

    def __init__(self) -> None:
        self.values: list[str | BaseException] = []
        self.calls = 0
        self.entered = threading.Semaphore(0)
        self.gates: list[threading.Event] = []
        self._lock = threading.Lock()

    def __call__(self) -> str:
        with self._lock:
            call, self.calls = self.calls, self.calls + 1
        self.entered.release()
        if call < len(self.gates):
            assert self.gates[call].wait(WAIT_SECONDS)
        value = self.values[call] if call < len(self.values) else f"secret-{call}"
        if isinstance(value, BaseException):
            raise value
        return value


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def cache(source: Source, clock: Clock) -> CachedCredential:
    return CachedCredential(source, ttl_seconds=60, clock=clock)


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = threading.Event()
    for _ in range(int(WAIT_SECONDS / 0.002)):
        if condition():
            return
        deadline.wait(0.002)
    raise AssertionError("the condition never held")


def _burst(cache: CachedCredential, source: Source, threads: int = 100) -> list[Future[Credential]]:
    """`threads` calls of get() that all miss while one fetch is held, then let go."""
    source.gates.append(threading.Event())
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(cache.get) for _ in range(threads)]
        _wait_for(lambda: cache.snapshot()["misses"] == threads)
        source.gates[0].set()
    return futures


def test_hit_expiry_and_snapshot(cache: CachedCredential, source: Source, clock: Clock) -> None:
    assert cache.snapshot()["fingerprint"] is None
    first = cache.get()
    clock.now += 59.5
    assert cache.get() is first
    snapshot = cache.snapshot()
    assert snapshot == {
        "hits": 1,
        "misses": 1,
        "fetches": 1,
        "errors": 0,
        "age_seconds": 59.5,
        "expires_in_seconds": 0.5,
        "fingerprint": hashlib.sha256(b"secret-0").hexdigest()[:12],
    }
    clock.now += 0.5
    assert cache.snapshot()["expires_in_seconds"] == 0
    assert cache.get().reveal() == "secret-1"
    assert source.calls == 2


def test_every_use_is_counted_once_with_its_result(source: Source, clock: Clock) -> None:
    told: list[str] = []
    cache = CachedCredential(source, ttl_seconds=10, clock=clock, on_use=told.append)
    source.values = [OSError("no"), "secret"]
    with pytest.raises(CredentialUnavailable):
        cache.get()
    cache.get()
    cache.get()
    cache.refresh()
    assert told == ["error", "miss", "hit"]


def test_a_hundred_misses_make_one_fetch(cache: CachedCredential, source: Source) -> None:
    futures = _burst(cache, source)
    assert {id(future.result()) for future in futures} == {id(cache.get())}
    assert source.calls == 1
    assert (cache.snapshot()["misses"], cache.snapshot()["fetches"], cache.snapshot()["hits"]) == (100, 1, 1)


def test_a_hundred_misses_share_an_error_which_is_not_cached(cache: CachedCredential, source: Source) -> None:
    source.values.append(PermissionError(13, "Permission denied"))
    futures = _burst(cache, source)
    errors = [future.exception() for future in futures]
    assert {type(error) for error in errors} == {CredentialUnavailable}
    assert len({id(error) for error in errors}) == 100, "each raises its own, or tracebacks grow together"
    assert "PermissionError: Permission denied" in str(errors[0])
    assert (source.calls, cache.snapshot()["errors"]) == (1, 1)
    assert cache.get().reveal() == "secret-1"


def test_a_late_result_is_not_served_after_invalidate(cache: CachedCredential, source: Source) -> None:
    source.gates = [threading.Event()]
    with ThreadPoolExecutor(2) as pool:
        before = pool.submit(cache.get)
        assert source.entered.acquire(timeout=WAIT_SECONDS)
        cache.invalidate()
        after = pool.submit(cache.get)
        assert after.result(WAIT_SECONDS).reveal() == "secret-1", "a fetch of its own, begun afterwards"
        source.gates[0].set()
        assert before.result(WAIT_SECONDS).reveal() == "secret-0", "it asked before"
    assert cache.get().reveal() == "secret-1"
    assert source.calls == 2


def test_a_late_result_after_invalidate_leaves_the_cache_empty(
    cache: CachedCredential, source: Source
) -> None:
    source.gates = [threading.Event()]
    with ThreadPoolExecutor(1) as pool:
        before = pool.submit(cache.get)
        assert source.entered.acquire(timeout=WAIT_SECONDS)
        cache.invalidate()
        source.gates[0].set()
        before.result(WAIT_SECONDS)
    assert cache.snapshot()["age_seconds"] is None
    assert cache.get().reveal() == "secret-1"


def test_age_counts_from_the_start_of_the_fetch(clock: Clock) -> None:
    def slow() -> str:
        clock.now += 45
        return SECRET

    cache = CachedCredential(slow, ttl_seconds=60, clock=clock)
    assert cache.get().fetched_at == 1000
    assert cache.snapshot()["expires_in_seconds"] == 15


def test_refresh_replaces_and_a_failed_one_keeps_the_value(cache: CachedCredential, source: Source) -> None:
    source.values = ["old", "new", OSError(2, "No such file or directory"), ""]
    assert cache.get().reveal() == "old"
    assert cache.refresh().reveal() == "new"
    for _ in range(2):
        with pytest.raises(CredentialUnavailable):
            cache.refresh()
        assert cache.get().reveal() == "new"
    assert cache.snapshot()["errors"] == 2


def test_get_hits_while_a_refresh_runs(cache: CachedCredential, source: Source) -> None:
    old = cache.get()
    source.gates = [threading.Event(), threading.Event()]
    source.entered.acquire()
    with ThreadPoolExecutor(1) as pool:
        refreshed = pool.submit(cache.refresh)
        assert source.entered.acquire(timeout=WAIT_SECONDS)
        assert cache.get() is old
        source.gates[1].set()
        assert cache.get() in {old, refreshed.result(WAIT_SECONDS)}
    assert cache.get().reveal() == "secret-1"


def test_a_leader_that_is_stopped_frees_those_who_wait(cache: CachedCredential, source: Source) -> None:
    source.values.append(SystemExit("stopping"))
    futures = _burst(cache, source, threads=5)
    kinds = sorted(type(future.exception()).__name__ for future in futures)
    assert kinds == ["CredentialUnavailable"] * 4 + ["SystemExit"]
    assert cache.get().reveal() == "secret-1"


def test_the_secret_does_not_show(clock: Clock) -> None:
    credential = Credential(SECRET, clock())
    shown = [repr(credential), str(credential), f"{credential}", f"{credential!r:>80}", repr([credential])]
    assert all(SECRET not in text for text in shown)
    assert credential.fingerprint in shown[0]
    assert credential.reveal() == SECRET
    for leave in (pickle.dumps, json.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            leave(credential)


def test_an_error_of_the_source_does_not_carry_the_secret(clock: Clock) -> None:
    def fetch() -> str:
        return (SECRET.encode() + b"\xff").decode()

    with pytest.raises(CredentialUnavailable) as caught:
        CachedCredential(fetch, ttl_seconds=1, clock=clock).get()
    error: BaseException | None = caught.value
    told = "".join(traceback.format_exception(caught.value))
    assert SECRET not in told
    assert "UnicodeDecodeError" in told
    while error is not None:
        assert not isinstance(error, UnicodeDecodeError)
        error = error.__cause__ or error.__context__


def test_ttl_must_be_positive(clock: Clock) -> None:
    with pytest.raises(ValueError, match="positive"):
        CachedCredential(lambda: SECRET, ttl_seconds=0, clock=clock)


ACTIONS: st.SearchStrategy[Any] = st.lists(
    st.one_of(
        st.sampled_from(["get", "refresh", "invalidate", "rotate", "break", "mend"]),
        st.floats(0, 100, allow_nan=False),
    ),
    max_size=40,
)


@settings(max_examples=200)
@given(ACTIONS)
def test_never_stale_beyond_the_ttl(actions: list[str | float]) -> None:
    """Against a model: what get() gives was the source's value at a moment at most the TTL ago."""
    clock, version, broken = Clock(), 0, False
    held: tuple[int, float] | None = None

    def fetch() -> str:
        if broken:
            raise OSError(5, "Input/output error")
        return str(version)

    cache = CachedCredential(fetch, ttl_seconds=60, clock=clock)
    for action in actions:
        if isinstance(action, float):
            clock.now += action
        elif action == "rotate":
            version += 1
        elif action in {"break", "mend"}:
            broken = action == "break"
        elif action == "invalidate":
            cache.invalidate()
            held = None
        else:
            fresh = held is not None and clock.now - held[1] < 60
            if action == "get" and fresh:
                assert held is not None
                assert cache.get().reveal() == str(held[0])
            elif broken:
                with pytest.raises(CredentialUnavailable):
                    cache.get() if action == "get" else cache.refresh()
            else:
                credential = cache.get() if action == "get" else cache.refresh()
                assert credential.reveal() == str(version)
                held = (version, clock.now)
    snapshot = cache.snapshot()
    assert snapshot["age_seconds"] == (None if held is None else clock.now - held[1])
