"""Threads that work on one dedicated database session, and open a new one if the session is lost."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

import psycopg2

from holdfast.postgres.database import Connection
from holdfast.postgres.outage_log import OutageLog


def retry_pause_seconds() -> float:
    """Returns the seconds until the next retry: about ten per second, with jitter against lockstep."""
    return random.uniform(0.05, 0.15)  # noqa: S311


class SessionThread:
    """Calls ``work`` with an open session repeatedly until it is stopped.

    After a database error from ``work``, the thread logs it (``text``, ``action``), closes the session, and
    opens a new one after ``pause()`` seconds. With ``retry_at_once`` the first retry after a session that
    worked does not wait. Any other error is logged and keeps the session. The hooks run in the thread:
    ``opened`` with each new session, ``lost`` after each database error, ``closing`` before each close.
    """

    def __init__(
        self,
        name: str,
        *,
        connect: Callable[[], Connection],
        work: Callable[[Connection], None],
        log: logging.Logger,
        text: str,
        action: str,
        pause: Callable[[], float] = retry_pause_seconds,
        retry_at_once: bool = False,
        opened: Callable[[Connection], None] = lambda _: None,
        lost: Callable[[], None] = lambda: None,
        closing: Callable[[], None] = lambda: None,
    ) -> None:
        self._name = name
        self._connect = connect
        self._work = work
        self._log = log
        self._pause = pause
        self._retry_at_once = retry_at_once
        self._opened = opened
        self._lost = lost
        self._closing = closing
        self._has_worked = False
        self._outage_log = OutageLog(log, text, action=action)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.connection: Connection | None = None
        self.stopping = threading.Event()
        """`stop` sets this event. ``work`` then returns soon; it may also set the event itself."""

    def start(self, connection: Connection | None = None) -> None:
        """Starts the thread. A passed `connection` is an open session that has worked already."""
        self.connection = connection
        self._has_worked = connection is not None
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and its session, if it was started. Waits at most a second.

        The thread itself closes the session: psycopg2's `close` would block while the thread waits for the
        answer of a frozen PostgreSQL.
        """
        self.stopping.set()
        if self.is_started:
            self._thread.join(timeout=1)

    @property
    def is_started(self) -> bool:
        """Whether `start` was called."""
        return self._thread.ident is not None

    def join(self, seconds: float) -> bool:
        """Waits at most `seconds` for the end of the thread. Returns whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def outage(self) -> str | None:
        """The state of PostgreSQL in one word, by the last database error. None if the error shows none."""
        return self._outage_log.reason

    def works(self) -> None:
        """Records that the session works, so an outage is over. ``work`` or ``opened`` calls this."""
        self._has_worked = True
        self._outage_log.record_success()

    def _run(self) -> None:
        while not self.stopping.is_set():
            try:
                self._work(self._open())
            except psycopg2.Error as error:
                if self.stopping.is_set():
                    break
                self._lose(error)
            except Exception:
                # Continue: no component that depends on this thread would detect its end.
                self._log.exception(
                    "%s goes on after an error", self._name, extra={"action": f"{self._name}.failed"}
                )
                self.stopping.wait(self._pause())
        self._close()

    def _open(self) -> Connection:
        if self.connection is not None and self.connection.closed:
            self._close()
        if self.connection is None:
            self._has_worked = False
            self.connection = self._connect()
            try:
                self._opened(self.connection)
            except Exception:
                self._close()
                raise
        return self.connection

    def _lose(self, error: psycopg2.Error) -> None:
        self._lost()
        self._outage_log.record_failure(error)
        has_worked = self._has_worked and self.connection is not None
        self._has_worked = False
        self._close()
        if not (has_worked and self._retry_at_once):
            self.stopping.wait(self._pause())

    def _close(self) -> None:
        if self.connection is not None:
            self._closing()
            self.connection.close()
            self.connection = None


class PollingThread(SessionThread):
    """A session thread that calls ``poll`` with its session again and again, ``pause()`` seconds apart."""

    def __init__(
        self,
        name: str,
        *,
        connect: Callable[[], Connection],
        poll: Callable[[Connection], object],
        log: logging.Logger,
        action: str,
        pause: Callable[[], float],
    ) -> None:
        super().__init__(
            name,
            connect=connect,
            work=self._poll_and_pause,
            log=log,
            text=f"{name} failed",
            action=action,
            pause=pause,
        )
        self._poll = poll

    def _poll_and_pause(self, connection: Connection) -> None:
        self._poll(connection)
        self.works()
        self.stopping.wait(self._pause())
