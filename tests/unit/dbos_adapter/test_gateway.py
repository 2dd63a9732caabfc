"""How long a request waits for PostgreSQL: briefly when it is away, longer when it is only slow."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from holdfast.dbos_adapter import gateway as module
from holdfast.dbos_adapter.gateway import Gateway
from holdfast.errors import DatabaseBusy, DatabaseUnavailable, StatementTimeout
from holdfast.postgres.database import PoolExhausted
from holdfast.settings import Settings

Make = Callable[[Callable[[], float]], Gateway]


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setattr(module, "_SLOW_SECONDS", 1.0)
    for name, value in (
        ("HOST", "127.0.0.1"),
        ("PORT", "1"),
        ("NAME", "n"),
        ("USER", "u"),
        ("PASSFILE", "/f"),
    ):
        monkeypatch.setenv(f"HOLDFAST_DATABASE_{name}", value)
    made: list[Gateway] = []

    def make(heartbeat_age_seconds: Callable[[], float]) -> Gateway:
        settings = Settings(database_timeout_seconds=0.2)
        made.append(
            Gateway(
                settings,
                purpose="test",
                database_up=lambda: True,
                heartbeat_age_seconds=heartbeat_age_seconds,
            )
        )
        return made[-1]

    yield make
    for each in made:
        each.close()


def call(gateway: Gateway, seconds: float) -> str:
    def work() -> str:
        time.sleep(seconds)
        return "done"

    return asyncio.run(gateway.call(work))


def test_a_slow_database_gets_more_time_than_the_timeout(gateway: Make) -> None:
    assert call(gateway(lambda: 0.3), 0.6) == "done"


@pytest.mark.parametrize("silent_for", [1.6, 1.2])
def test_a_database_that_is_or_falls_silent_ends_the_wait(gateway: Make, silent_for: float) -> None:
    """After 1.5 s without a heartbeat, long before the statement ends."""
    begun = time.monotonic()
    ended = threading.Event()
    with pytest.raises(DatabaseUnavailable) as raised:
        asyncio.run(
            gateway(lambda: silent_for + time.monotonic() - begun).call(lambda: ended.wait(30))
        )  # which waits for no thread of ours
    ended.set()
    assert raised.type is DatabaseUnavailable, "it waited as for a database that is only slow"
    assert time.monotonic() - begun > 0.2


@pytest.mark.parametrize("error", [sa.exc.TimeoutError(), PoolExhausted()])
@pytest.mark.parametrize(("age", "said"), [(0.0, DatabaseBusy), (9.0, DatabaseUnavailable)])
def test_a_pool_without_a_free_connection_is_busy_or_away(
    gateway: Make, error: Exception, age: float, said: type[Exception]
) -> None:
    def work() -> None:
        raise error

    with pytest.raises(DatabaseUnavailable) as raised:
        asyncio.run(gateway(lambda: age).call(work))
    assert raised.type is said


def test_the_wait_for_a_slow_one_is_bounded(gateway: Make) -> None:
    with pytest.raises(StatementTimeout):
        call(gateway(lambda: 0.0), 1.5)
