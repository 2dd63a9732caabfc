"""Detects a pooler between this process and PostgreSQL, and refuses one that shares sessions.

A lease is a session's lock, and wake-ups use a session's LISTEN. A pooler that gives a session to another
client after each transaction breaks both without an error. A pooler that keeps a session for each client
(PgBouncer's ``pool_mode = session``) is like no pooler, but it ignores the options of a connection's start.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg2
import psycopg2.extensions

from holdfast.errors import PoolerSharesSessions

_ROUNDS = 3
_UNSUPPORTED = re.compile(r"unsupported startup parameter[^:]*: (\w+)")


class _Seen:
    """What this process found out about its connections."""

    ignores_options = False
    """Whether a pooler is between, so that options are set by statements."""


SEEN = _Seen()


def require_own_sessions(connection: Any, connect_again: Callable[[], Any]) -> None:
    """Raises ``PoolerSharesSessions`` if a pooler shares sessions. Raises ``psycopg2.Error``.

    Takes an autocommit connection. A pooler shows itself by another process id than the server's.
    """
    if connection.info.backend_pid == _backend(connection):
        return
    SEEN.ignores_options = True
    with closing(connect_again()) as other:
        for _ in range(_ROUNDS):
            before = _backend(connection)
            try:
                other.cursor().execute("BEGIN")
            except psycopg2.Error:
                _backend(connection)  # raises in an outage, too; a pooler of statements ended only the other
                raise PoolerSharesSessions from None
            # In a transaction, the other client has a session for itself: the first one's, or the first one
            # gets another one meanwhile.
            if _backend(other) == before or _backend(connection) != before:
                raise PoolerSharesSessions
            other.cursor().execute("ROLLBACK")


def refused_by_pooler(error: BaseException) -> PoolerSharesSessions | None:
    """Returns the error to raise if a pooler refused an option of the connection's start, else None."""
    found = _UNSUPPORTED.search(str(error))
    if found is None:
        return None
    return PoolerSharesSessions(
        f"A pooler stands before PostgreSQL and refuses the startup parameter `{found[1]}`. Connect without"
        " it, or set in it: pool_mode = session, ignore_startup_parameters = extra_float_digits,options"
    )


def set_options(execute: Callable[[str, tuple[str, str]], object], options: str) -> None:
    """Sets options that a pooler ignored (``-c name=value``) by statements, for the life of the session."""
    if SEEN.ignores_options:
        for name, value in re.findall(r"-c\s*([\w.]+)=(\S+)", options):
            execute("SELECT set_config(%s, %s, false)", (name, value))


def _backend(connection: Any) -> int:
    with connection.cursor(cursor_factory=psycopg2.extensions.cursor) as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])
