"""The rules for which errors are an outage of PostgreSQL, and what this process knows about one.

An outage ends without a change of the request: the server is away, is read-only (a standby, or after a
failover), has no connection or no disk left, or aborted this transaction in favour of another one. Work
waits for the end of an outage. Every other refusal (a constraint, a wrong value, a missing privilege) is
the caller's fault and is never retried.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import sqlalchemy as sa

from holdfast import errors

READ_ONLY = "25006"
RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 0.5, 8.0
_CANCELED = "57014"
_LOCKED = "55P03"

# SQLSTATE classes: connections, resources, shutdown by an operator or a crash, the server's own files.
_CLASSES = ("08", "53", "57", "58")
_STATES = frozenset(
    {
        READ_ONLY,
        "25P03",  # idle in a transaction for too long: this process was paused
        "25P04",  # a transaction took too long
        "40001",  # serialization failure; also a standby's conflict with recovery
        "40003",  # whether the statement took effect is unknown
        "40P01",  # deadlock
        _LOCKED,  # a lock was not available in time
    }
)
# A limit of the role (temp_file_limit): the same statement exceeds it again.
_CALLERS = frozenset({"53400"})
# A user's statement may take too long each time, or request a lock with NOWAIT.
_USERS = frozenset({_CANCELED, _LOCKED})
# Messages of psycopg 3 and its libpq for a connection that is lost or could not be opened. They use the same
# error types to refuse statements ("number of parameters must be between 0 and 65535"); psycopg2 does not.
_LOST = re.compile(
    r"connection (?:to server|failed|is bad|is closed|is lost|already closed|not open|reset|refused|timed out"
    r"|has been closed|pointer is NULL|socket closed)|closed the connection|no connection to the server"
    r"|could not (?:connect|send|receive|translate|resolve|initiate|read|write)|lost synchronization"
    r"|(?:consuming input|flushing) failed|SSL (?:SYSCALL )?error|broken pipe|EOF detected|timeout expired"
    r"|\[Errno|host name|resolve host|no host found|session is read-only|hot standby",
    re.IGNORECASE,
)
# Messages of a server without a free connection. libpq gives no SQLSTATE if no session could be opened.
_NO_CONNECTION = re.compile(
    r"too many (?:connections|clients)|remaining connection slots|no more connections allowed|max_client_conn"
)
# Messages of libpq if a server accepts no writes and one that does is required (database.CONNECT_OPTIONS).
_READ_ONLY_SESSION = ("session is read-only", "server is in hot standby mode")


def sqlstate(error: BaseException) -> str | None:
    """Returns the SQLSTATE of an error of either driver; None if the error did not come from the server."""
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return None if state is None else str(state)


def is_outage(error: BaseException, *, users_statement: bool = False) -> bool:
    """Whether an error of a driver (psycopg2 or psycopg 3) means an outage.

    An error without SQLSTATE comes from the driver: the server was not reached or went away, or the driver
    refused the statement. An error of SQLAlchemy counts as the one that it wraps. ``users_statement`` means
    that a user wrote the statement: its own lock and statement timeouts are not an outage.
    """
    if getattr(error, "connection_invalidated", False):
        return True
    # SQLAlchemy's error has no statement if it opened a session, or began or ended a transaction.
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


def is_refusal_of_data(error: BaseException) -> bool:
    """Whether PostgreSQL refused a value of a row: wrong, out of range, too long, or against a constraint.

    Another row may be accepted by the same statement. ``P0`` is an error that a trigger raises.
    """
    return (sqlstate(error) or "").startswith(("22", "23", "54", "P0"))


def _is_of_connection(error: BaseException) -> bool:
    """Whether the error's type is one that a driver raises for a connection that is lost or cannot be opened.

    A broken socket can surface as a bare ``DatabaseError`` (seen: "could not send data to server: Connection
    timed out").
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"OperationalError", "InterfaceError"}) or type(error).__name__ == "DatabaseError"


def is_read_only(error: BaseException) -> bool:
    """Whether the server answered but accepts no writes. SQLAlchemy's errors count as the ones they wrap."""
    error = getattr(error, "orig", None) or error
    return sqlstate(error) == READ_ONLY or any(text in str(error) for text in _READ_ONLY_SESSION)


def lacks_connections(error: BaseException | str) -> bool:
    """Whether an error, or its text, says that the server, the role or a pooler has no free connection."""
    error = getattr(error, "orig", None) or error
    return (not isinstance(error, str) and sqlstate(error) == "53300") or bool(
        _NO_CONNECTION.search(str(error))
    )


def backed_off(seconds: float) -> float:
    """Returns the next pause of a retry with back-off: about twice as long, with jitter."""
    return min(_LONGEST_RETRY_SECONDS, seconds * random.uniform(1.6, 2.4))  # noqa: S311


def until_connected(call: Callable[[], object], *, seconds: float, log: logging.Logger) -> None:
    """Calls ``call`` until a connection is free, at most ``seconds`` long. Raises other errors immediately.

    Logs each wait. The pauses grow, because an attempt takes a connection that another process may need.
    """
    deadline = time.monotonic() + seconds
    pause_seconds = RETRY_SECONDS
    while True:
        try:
            call()
            return
        except Exception as error:
            if not lacks_connections(error) or time.monotonic() > deadline:
                raise
            log.warning("waiting for a connection: %s", error, extra={"action": "connections.waiting"})
        time.sleep(pause_seconds)
        pause_seconds = backed_off(pause_seconds)


def unavailable(error: BaseException) -> errors.DatabaseUnavailable:
    """Returns what to tell the caller of work that an outage ended: what the server did, if it answered."""
    if is_read_only(error):
        return errors.DatabaseReadOnly()
    state = sqlstate(getattr(error, "orig", None) or error) or ""
    if state == _CANCELED:
        return errors.StatementTimeout()
    if state == _LOCKED:
        return errors.LockTimeout()
    # Too many connections or too little of something else; a deadlock or a conflict of transactions.
    if state.startswith(("53", "40")):
        return errors.DatabaseBusy()
    return errors.DatabaseUnavailable()


def server_reads_only(connection: Any) -> bool:
    """Whether the server reported to this session that it accepts no writes. Sends no query.

    Takes a connection of psycopg 3. The server reports both parameters whenever they change. Neither changes
    if the session itself made its transaction read-only.
    """
    info = connection.info
    return any(
        info.parameter_status(name) == "on" for name in ("in_hot_standby", "default_transaction_read_only")
    )


class Reach:
    """Tracks whether this process can open sessions to PostgreSQL, by the results of its own attempts.

    Retries sleep on this object. The lease, the sweep and the listener try several times per second, and the
    first success after a failure wakes every sleeper.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._failed = False
        self._returns = 0
        self.away = False
        """True while the listener has no session. It retries immediately, so it detects a recovery first."""
        self.back_at = float("-inf")
        """Monotonic time of the last recovery."""

    def lost(self) -> None:
        """Records that the listener lost its session or could not open one."""
        self.away = self._failed = True

    def failed(self) -> None:
        """Records that a session could not be opened."""
        self._failed = True

    def opened(self) -> None:
        """Records that a session was opened. After a failure this ends the outage."""
        if self._failed:
            self.returned()

    def returned(self) -> None:
        """Records that PostgreSQL is back, and wakes every sleeper."""
        with self._changed:
            self.away = self._failed = False
            self._returns += 1
            self.back_at = time.monotonic()
            self._changed.notify_all()

    def wait_for_return(self, seconds: float) -> None:
        """Blocks until PostgreSQL is back again, at most `seconds`."""
        deadline = time.monotonic() + seconds
        with self._changed:
            returns = self._returns
            while returns == self._returns and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)


REACH = Reach()
"""The state of this process's connections."""
