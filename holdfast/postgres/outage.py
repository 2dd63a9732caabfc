"""What counts as an outage of PostgreSQL, and what this process knows of one.

An outage ends without anybody changing the request: the server is away, only reads (a standby, or after a
failover), has no connection or no disk left, or gave way to another transaction. Work waits for its end.
Every other refusal (a constraint, a wrong value, a missing right) is the caller's, and is never repeated.
"""

from __future__ import annotations

import re
import threading
import time
from typing import Any

import psycopg
import sqlalchemy as sa

READ_ONLY = "25006"

# Connections, resources, an operator's or a crash's shutdown, the server's own files.
_CLASSES = ("08", "53", "57", "58")
_STATES = frozenset(
    {
        READ_ONLY,
        "25P03",  # idle in a transaction for too long: this process stood still
        "25P04",  # a transaction took too long
        "40001",  # serialization failure; a standby's conflict with recovery, too
        "40003",  # whether the statement took effect is unknown
        "40P01",  # deadlock
        "55P03",  # a lock was not available in time
    }
)
# A limit of the role (temp_file_limit): the same statement meets it again.
_CALLERS = frozenset({"53400"})
# A statement that a user wrote may take too long each time, or ask for a lock with NOWAIT.
_USERS = frozenset({"57014", "55P03"})
# What psycopg 3 and its libpq say of a connection that is lost or could not be made. They refuse statements
# by the same types of errors ("number of parameters must be between 0 and 65535"); psycopg2 does not.
_LOST = re.compile(
    r"connection (?:to server|failed|is bad|is closed|is lost|already closed|not open|reset|refused|timed out"
    r"|has been closed|pointer is NULL|socket closed)|closed the connection|no connection to the server"
    r"|could not (?:connect|send|receive|translate|resolve|initiate|read|write)|lost synchronization"
    r"|(?:consuming input|flushing) failed|SSL (?:SYSCALL )?error|broken pipe|EOF detected|timeout expired"
    r"|\[Errno|host name|resolve host|no host found|session is read-only|hot standby",
    re.IGNORECASE,
)
# What libpq says where only a server that accepts writes is wanted (database.CONNECT_OPTIONS).
_READ_ONLY_SESSION = ("session is read-only", "server is in hot standby mode")


def sqlstate(error: BaseException) -> str | None:
    """The SQLSTATE that an error of either driver carries; None where it never came from the server."""
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return None if state is None else str(state)


def is_outage(error: BaseException, *, users_statement: bool = False) -> bool:
    """Whether an error of a driver (psycopg2 or psycopg 3) means an outage.

    An error without SQLSTATE comes from the driver: the server was not reached, or went away, or the driver
    refused the statement. SQLAlchemy's errors count as the ones they wrap. ``users_statement``: the statement
    was written by a user, whose own lock and statement timeouts are no outage.
    """
    if getattr(error, "connection_invalidated", False):
        return True
    # SQLAlchemy names no statement where it opens a session, or begins or ends a transaction.
    without_statement = isinstance(error, sa.exc.DBAPIError) and error.statement is None
    error = getattr(error, "orig", None) or error
    state = sqlstate(error)
    if state is None:
        return _is_of_connection(error) and (
            without_statement or not isinstance(error, psycopg.Error) or bool(_LOST.search(str(error)))
        )
    if state in _CALLERS or (users_statement and state in _USERS):
        return False
    return state in _STATES or state.startswith(_CLASSES)


def _is_of_connection(error: BaseException) -> bool:
    """Whether it is of a kind that a driver raises for a connection that is lost or cannot be made.

    A broken socket can surface as a bare ``DatabaseError`` (seen: "could not send data to server: Connection
    timed out").
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"OperationalError", "InterfaceError"}) or type(error).__name__ == "DatabaseError"


def is_read_only(error: BaseException) -> bool:
    """Whether the server answered, and accepts no writes. SQLAlchemy's errors count as the ones they wrap."""
    error = getattr(error, "orig", None) or error
    return sqlstate(error) == READ_ONLY or any(text in str(error) for text in _READ_ONLY_SESSION)


def server_reads_only(connection: Any) -> bool:
    """Whether the server told this session that it accepts no writes; asks it nothing.

    Takes a connection of psycopg 3. The server reports both parameters whenever they change. A transaction
    that its own user made read-only shows in neither.
    """
    info = connection.info
    return any(
        info.parameter_status(name) == "on" for name in ("in_hot_standby", "default_transaction_read_only")
    )


class Reach:
    """Whether sessions to PostgreSQL can be opened, as this process's own attempts found out.

    Retries sleep on it: the lease, the sweep and the listener try several times a second, and the first of
    them that succeeds after a failure ends every sleep.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._failed = False
        self._returns = 0
        self.away = False
        """Whether the listener has no session: it tries again at once, and so hears first of a return."""
        self.back_at = float("-inf")
        """Monotonic time of the last return."""

    def lost(self) -> None:
        """The listener lost its session, or could not open one."""
        self.away = self._failed = True

    def failed(self) -> None:
        """A session could not be opened."""
        self._failed = True

    def opened(self) -> None:
        """A session was opened; after a failure, that is the end of an outage."""
        if self._failed:
            self.returned()

    def returned(self) -> None:
        """PostgreSQL is back: every sleep ends."""
        with self._changed:
            self.away = self._failed = False
            self._returns += 1
            self.back_at = time.monotonic()
            self._changed.notify_all()

    def wait_for_return(self, seconds: float) -> None:
        """Returns at the next return of PostgreSQL, at the latest after that time."""
        deadline = time.monotonic() + seconds
        with self._changed:
            returns = self._returns
            while returns == self._returns and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)


REACH = Reach()
"""Of this process."""
