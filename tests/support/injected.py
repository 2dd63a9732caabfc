"""Injects PostgreSQL errors into DBOS's own statements, where the driver would raise them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from dbos import DBOS

LOST = "lost"
"""Used instead of a SQLSTATE: the connection ends during the statement, an error without a SQLSTATE."""
ANSWER_LOST = "answer lost"
"""The connection ends during a commit that took effect."""
OUTAGES = (
    *("08003", "08006", "25006", "25P03", "25P04", "40001", "40003", "40P01", "53100", "53200", "53300"),
    *("55P03", "57014", "57P01", "57P02", "57P03", "58030"),
)
"""SQLSTATEs that say that the database cannot, for now."""
REFUSALS = (
    *("0A000", "22001", "22P02", "23502", "23503", "23505", "23514", "42501", "42P01", "42703"),
    *("53400", "54000", "XX000"),
)
"""SQLSTATEs that say that it never will."""


def error_of(state: str) -> psycopg.Error:
    """Returns the driver's error for that SQLSTATE."""
    if state in {LOST, ANSWER_LOST}:
        return psycopg.OperationalError("the connection is lost")
    return psycopg.errors.lookup(state)("injected")


class Injector:
    """Makes statements of workflows and steps fail. Statements of DBOS's own threads do not fail."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state, self._skip, self._times = "", 0, 0
        self.thrown = 0

    def arm(self, state: str, *, skip: int = 0, times: int = 1) -> None:
        """Arms the injector: after ``skip`` statements, the next ``times`` fail."""
        with self._lock:
            self._state, self._skip, self._times = state, skip, times

    def disarm(self) -> None:
        """Disarms the injector."""
        self.arm("", times=0)

    def due(self, *, at_commit: bool) -> str | None:
        """Returns the error for the next statement, if it must fail."""
        if DBOS.workflow_id is None:
            return None
        with self._lock:
            if self._times <= 0 or at_commit != (self._state == ANSWER_LOST):
                return None
            if self._skip > 0:
                self._skip -= 1
                return None
            self._times -= 1
            self.thrown += 1
            return self._state


@contextmanager
def injecting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Injector]:
    """Yields an injector below SQLAlchemy and our own sessions. Retries do not sleep inside."""
    injector = Injector()
    execute, execute_async = psycopg.Cursor.execute, psycopg.AsyncCursor.execute
    commit = psycopg.Connection.commit

    def failing(self: Any, *args: Any, **options: Any) -> Any:
        if state := injector.due(at_commit=False):
            if state == LOST:
                self.connection.close()
            raise error_of(state)
        return execute(self, *args, **options)

    async def failing_async(self: Any, *args: Any, **options: Any) -> Any:
        if state := injector.due(at_commit=False):
            raise error_of(state)
        return await execute_async(self, *args, **options)

    def losing(self: Any) -> None:
        commit(self)
        if state := injector.due(at_commit=True):
            self.close()
            raise error_of(state)

    with monkeypatch.context() as patch:
        patch.setattr(psycopg.Cursor, "execute", failing)
        patch.setattr(psycopg.AsyncCursor, "execute", failing_async)
        patch.setattr(psycopg.Connection, "commit", losing)
        patch.setattr("holdfast.postgres.outage.REACH.wait_for_return", lambda _: None)
        yield injector
