"""One database session for as long as a thread works: opened again when lost, and a bounded stop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest

from holdfast.postgres.session_thread import PollingThread, SessionThread

log = logging.getLogger("test.session")


class _Session:
    """Stands in for a connection."""

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed = 1


class _World:
    """What a session thread did, in order; ``script`` says what each call of ``work`` does."""

    def __init__(self, *script: str, retry_at_once: bool = False) -> None:
        self.script = list(script)
        self.told: list[str] = []
        self.sessions: list[_Session] = []
        self.down = False
        self.done = threading.Event()
        self.thread = SessionThread(
            "part",
            connect=self.connect,  # type: ignore[arg-type]
            work=self.work,
            log=log,
            text="part lost its session",
            action="part.lost",
            pause=self.pause,
            retry_at_once=retry_at_once,
            opened=lambda _: self.told.append("opened"),
            lost=lambda: self.told.append("lost"),
            closing=lambda: self.told.append("closing"),
        )

    def connect(self) -> _Session:
        if self.down:
            self.down = False
            raise psycopg2.OperationalError("no server")
        self.sessions.append(_Session())
        return self.sessions[-1]

    def pause(self) -> float:
        self.told.append("pause")
        return 0.0

    def work(self, connection: Any) -> None:
        what = self.script.pop(0) if self.script else "end"
        self.told.append(what)
        if what == "works":
            self.thread.works()
        elif what == "fails":
            raise psycopg2.OperationalError("gone")
        elif what == "goes away":
            self.down = True
            raise psycopg2.OperationalError("gone")
        elif what == "bug":
            raise RuntimeError("a bug")
        elif what == "closes":
            connection.close()
        else:
            self.thread.stopping.set()
            self.done.set()

    def run(self) -> list[str]:
        self.thread.start()
        assert self.done.wait(30)
        assert self.thread.join(30)
        assert all(session.closed for session in self.sessions), "a session was left open"
        return self.told


@pytest.mark.parametrize(
    ("script", "at_once", "told"),
    [
        (["works", "fails"], True, "opened works fails lost closing opened end closing"),
        (["works", "fails"], False, "opened works fails lost closing pause opened end closing"),
        (["fails"], True, "opened fails lost closing pause opened end closing"),
        (["works", "goes away"], True, "opened works goes_away lost closing lost pause opened end closing"),
        (
            ["works", "fails", "fails"],
            True,
            "opened works fails lost closing opened fails lost closing pause opened end closing",
        ),
        (["bug", "works"], True, "opened bug pause works end closing"),
        (["closes", "works"], True, "opened closes closing opened works end closing"),
    ],
)
def test_a_lost_session_is_opened_again(script: list[str], at_once: bool, told: str) -> None:
    """At once after one that worked, if so asked; a bug in the work keeps the session."""
    found = _World(*script, retry_at_once=at_once).run()
    assert [text.replace(" ", "_") for text in found] == told.split()


def test_an_outage_is_logged_once_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    _World("fails", "fails", "fails", "works", "works").run()
    actions = [getattr(record, "action", None) for record in caplog.records]
    assert actions == ["part.lost", "part.lost.over"]


def test_a_bug_is_logged_under_its_own_action(caplog: pytest.LogCaptureFixture) -> None:
    _World("bug").run()
    assert [record.action for record in caplog.records] == ["part.failed"]  # type: ignore[attr-defined]


def test_a_session_whose_opening_fails_is_closed() -> None:
    world = _World("works")
    refusals: list[Callable[[], None]] = [lambda: (_ for _ in ()).throw(RuntimeError("a bug"))]
    world.thread._opened = lambda _: refusals.pop()() if refusals else None
    world.run()
    assert len(world.sessions) == 2


def test_what_never_started_can_be_stopped() -> None:
    """A process stops all parts, also those that its role does not start."""
    world = _World()
    world.thread.stop()
    assert world.sessions == []


def test_a_stop_waits_a_second_for_work_that_hangs_and_leaves_its_session_alone() -> None:
    """As it does in a statement that a frozen server never answers, and psycopg2 could not close."""
    world = _World()
    thawed = threading.Event()
    world.thread._work = lambda _: thawed.wait(60) and None
    world.thread.start()
    begun = time.monotonic()
    world.thread.stop()
    assert time.monotonic() - begun > 0.9
    assert not world.thread.join(0), "it waited for the end of the work"
    assert not world.sessions[0].closed
    thawed.set()
    assert world.thread.join(30)
    assert world.sessions[0].closed


def test_an_error_after_the_stop_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    world = _World()

    def work(_: Any) -> None:
        world.thread.stopping.set()
        raise psycopg2.OperationalError("terminating connection")

    world.thread._work = work
    world.thread.start()
    assert world.thread.join(30)
    assert not caplog.records
    assert world.told == ["opened", "closing"]


def polling(poll: Callable[[Any], None], pause: Callable[[], float]) -> PollingThread:
    connect: Any = _Session
    return PollingThread("part", connect=connect, poll=poll, log=log, action="part.failed", pause=pause)


def test_polls_pause_between_each_other_until_the_stop() -> None:
    told: list[str] = []
    polls = iter(["poll", "poll", "fails", "poll", "end"])

    def poll(_: Any) -> None:
        told.append(what := next(polls))
        if what == "fails":
            raise psycopg2.OperationalError("gone")
        if what == "end":
            thread.stopping.set()

    def pause() -> float:
        told.append("pause")
        return 0.0

    thread = polling(poll, pause)
    thread.start()
    assert thread.join(30)
    assert told == ["poll", "pause", "poll", "pause", "fails", "pause", "poll", "pause", "end", "pause"]


def test_a_failed_poll_is_logged_once_and_when_polls_work_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    polls = iter([True, True, False])

    def poll(_: Any) -> None:
        if next(polls):
            raise psycopg2.OperationalError("gone")
        thread.stopping.set()

    thread = polling(poll, lambda: 0.0)
    thread.start()
    assert thread.join(30)
    assert [record.action for record in caplog.records] == ["part.failed", "part.failed.over"]  # type: ignore[attr-defined]
