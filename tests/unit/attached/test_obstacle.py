"""What decides whether an attached application is protected for the life of its process."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest

from holdfast.attached import attach, identity
from holdfast.errors import PoolerSharesSessions

AWAY = 'connection to server at "db", port 5432 failed: Connection refused'
STARTS = "connection to server failed: FATAL:  the database system is starting up"


class _Database:
    """Refuses so many connections with this text, then accepts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, text: str, times: int) -> None:
        self.calls, self._text, self._times = 0, text, times
        monkeypatch.setattr(identity, "connect", self._connect)
        monkeypatch.setattr(identity, "unprepared", lambda *_: None)
        monkeypatch.setattr(identity, "query", lambda *_: [])
        monkeypatch.setattr(identity, "require_own_sessions", lambda *_: None)
        monkeypatch.setattr(identity, "RETRY_SECONDS", 0.001)

    def _connect(self, *_: Any, **__: Any) -> Any:
        self.calls += 1
        if self.calls <= self._times:
            raise psycopg2.OperationalError(self._text)
        return SimpleNamespace(close=lambda: None)


def _obstacle(seconds: float) -> str | None:
    settings: Any = SimpleNamespace(database_wait_seconds=seconds)
    configured: Any = SimpleNamespace(application="shop", schema="dbos")
    return identity.obstacle(settings, configured)


@pytest.mark.parametrize("text", [AWAY, STARTS])
def test_a_launch_waits_for_a_database_that_is_away(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    database = _Database(monkeypatch, text, 3)
    assert _obstacle(600) is None
    assert database.calls == 4


def test_a_launch_waits_no_longer_than_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    _Database(monkeypatch, AWAY, 10**9)
    reason = _obstacle(0.02)
    assert reason == f"its database cannot be reached: {AWAY}"


def test_where_connections_are_lacking_the_pauses_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []
    monkeypatch.setattr(identity.time, "sleep", paused.append)
    database = _Database(monkeypatch, 'FATAL:  too many connections for role "shop"', 5)
    assert _obstacle(600) is None
    assert database.calls == 6
    assert all(1.5 < later / earlier < 2.5 for earlier, later in pairwise(paused)), paused


def test_a_pooler_that_shares_sessions_is_an_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PoolerSharesSessions

    database = _Database(monkeypatch, "", 0)
    monkeypatch.setattr(identity, "require_own_sessions", refuse)
    assert "pool_mode = session" in (_obstacle(600) or "")
    assert database.calls == 1


@pytest.mark.parametrize(
    "text",
    [
        'FATAL:  password authentication failed for user "shop"',
        'FATAL:  database "shop" does not exist',
        'FATAL:  no pg_hba.conf entry for host "10.0.0.1"',
    ],
)
def test_a_launch_does_not_wait_for_a_refusal_to_end(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    database = _Database(monkeypatch, text, 10**9)
    assert text in (_obstacle(600) or "")
    assert database.calls == 1


@pytest.mark.parametrize(
    ("value", "demands"),
    [
        ("", False),
        ("0", False),
        ("False", False),
        ("off", False),
        ("true", True),
        (" 1 ", True),
        ("ja", True),
    ],
)
def test_protection_is_demanded_by_every_value_that_does_not_say_no(
    monkeypatch: pytest.MonkeyPatch, value: str, demands: bool
) -> None:
    monkeypatch.setenv("HOLDFAST_REQUIRED", value)
    assert attach.is_required() is demands
