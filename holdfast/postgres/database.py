"""Connections to PostgreSQL over psycopg2 that detect a dead peer, and pools of them."""

from __future__ import annotations

import random
import select
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, cast

import psycopg2
import psycopg2.extensions
import psycopg2.extras

from holdfast.executor_settings import ExecutorSettings
from holdfast.postgres.outage import REACH, is_outage, is_read_only, sqlstate
from holdfast.postgres.pooler import refused_by_pooler, set_options
from holdfast.postgres.statements import sql

Row = dict[str, Any]


class HasSocket(Protocol):
    """A connection of psycopg2 or psycopg 3."""

    def fileno(self) -> int:
        """Returns the file descriptor of the connection's socket."""


Connection = psycopg2.extensions.connection

# A peer that vanished without a FIN (pulled cable, paused host) is detected within about 5 s: three
# keepalives one second apart after 2 s of silence, and at most 4 s for unacknowledged data.
CONNECT_OPTIONS: dict[str, Any] = {
    # A server that accepts no writes counts as unavailable: libpq then finds the writable one of several
    # hosts, and a session on a standby would fail at its first write.
    "target_session_attrs": "read-write",
    # Kerberos is off: Holdfast does not use it, and the search for its credentials delays every connection. A
    # process once crashed inside libpq's connect while several threads reconnected concurrently. krb5, which
    # this setting keeps out, is the part of libpq that is known for such crashes.
    "gssencmode": "disable",
    "connect_timeout": 3,
    "keepalives": 1,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 4000,
}

METRICS_USER = "holdfast_metrics"
"""The role that may only read metrics (postgres/roles.sql, sql/grants.sql)."""


def connect(
    settings: ExecutorSettings,
    *,
    purpose: str,
    statement_timeout_seconds: float = 5.0,
    user: str | None = None,
) -> Connection:
    """Opens an autocommit connection that returns rows as dicts.

    ``purpose`` becomes ``pg_stat_activity.application_name``. ``user`` is the login role, the process's own
    role if None. Raises ``psycopg2.OperationalError`` if PostgreSQL cannot be reached within 3 s or accepts
    no writes, and ``PoolerSharesSessions`` if a pooler refuses the connection's options.
    """
    # The metrics role is itself read-only (postgres/roles.sql).
    login: dict[str, Any] = {"user": user, "target_session_attrs": "primary"} if user else {}
    options = f"{time_limits(statement_timeout_seconds)} -c idle_in_transaction_session_timeout=10000"
    try:
        connection = psycopg2.connect(
            settings.database_url,
            application_name=purpose[:63],
            options=server_options(settings.database_url, options),
            cursor_factory=psycopg2.extras.RealDictCursor,
            **{**CONNECT_OPTIONS, **login},
        )
    except psycopg2.OperationalError as error:
        if (refused := refused_by_pooler(error)) is not None:
            raise refused from None
        REACH.failed()
        raise
    connection.autocommit = True
    set_options(connection.cursor().execute, options)
    REACH.opened()
    return cast(Connection, connection)


def time_limits(seconds: float) -> str:
    """Returns the server options that limit a statement, and its wait for a lock to four fifths of that.

    With equal limits the server would report each wait for a lock as a slow statement.
    """
    return f"-c statement_timeout={int(seconds * 1000)} -c lock_timeout={int(seconds * 800)}"


def server_options(dsn: str, ours: str) -> str:
    """Returns the server options of a session: those of the connection string, then ours."""
    return f"{psycopg2.extensions.parse_dsn(dsn).get('options', '')} {ours}".strip()


def wait_readable(connection: HasSocket, seconds: float) -> bool:
    """Whether the server sends something (a notice, the session's end) within that time.

    Uses ``poll``, because ``select`` fails from the 1024th open file on. Raises ``psycopg2.InterfaceError``
    for a closed connection.
    """
    waiting = select.poll()
    waiting.register(connection, select.POLLIN)
    return bool(waiting.poll(seconds * 1000))


def query(connection: Connection, name: str, /, **params: Any) -> list[Row]:
    """Runs a named statement and returns its rows (an empty list for a statement without a result)."""
    with connection.cursor() as cursor:
        cursor.execute(sql(name), params)
        return [dict(row) for row in cursor.fetchall()] if cursor.description else []


@contextmanager
def transaction(connection: Connection) -> Iterator[Connection]:
    """Groups statements of an autocommit connection into one transaction."""
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        try:
            yield connection
        except BaseException:
            if not connection.closed:
                cursor.execute("ROLLBACK")
            raise
        cursor.execute("COMMIT")


@contextmanager
def savepoint(connection: Connection) -> Iterator[None]:
    """Undoes the statements of its block alone if one of them fails. Only within a transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SAVEPOINT holdfast")
        try:
            yield
        except BaseException:
            if not connection.closed:
                cursor.execute("ROLLBACK TO SAVEPOINT holdfast; RELEASE SAVEPOINT holdfast")
            raise
        cursor.execute("RELEASE SAVEPOINT holdfast")


class PoolExhausted(psycopg2.OperationalError):
    """No connection of the pool became free in time."""


class OpsPool:
    """A pool of a few connections for short named statements from many threads.

    The pool holds at most ``size`` connections. A caller blocks at most ``wait_seconds`` for a free one and
    then gets ``PoolExhausted``. A connection that failed is discarded.
    """

    def __init__(
        self,
        settings: ExecutorSettings,
        *,
        purpose: str,
        size: int = 4,
        wait_seconds: float = 1.0,
        user: str | None = None,
    ) -> None:
        self._settings = settings
        self._user = user
        self._purpose = purpose
        self._wait_seconds = wait_seconds
        self._free: list[Connection] = []
        self._permits = threading.BoundedSemaphore(size)
        self._lock = threading.Lock()

    def run(self, name: str, /, **params: Any) -> list[Row]:
        """Runs a named statement and returns its rows. Raises ``psycopg2.Error``."""
        with self._permit():
            idle = self._idle()
            if idle is not None:
                try:
                    return self._use(idle, name, params)
                except psycopg2.Error as error:
                    # A connection that idled through an outage is dead and does not know it: retry once on a
                    # new one.
                    if not (idle.closed and is_outage(error)):
                        raise
            return self._use(self._fresh(), name, params)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lends a connection, for transactions of several statements."""
        with self._permit():
            connection = self._idle() or self._fresh()
            if wait_readable(connection, 0):  # the server ended it while it was idle
                connection.close()
                connection = self._fresh()
            try:
                yield connection
            except psycopg2.Error as error:
                self._discard(connection, error)
                raise
            finally:
                self._return(connection)

    @contextmanager
    def _permit(self) -> Iterator[None]:
        if not self._permits.acquire(timeout=self._wait_seconds):
            raise PoolExhausted("no free connection for ops statements")
        try:
            yield
        finally:
            self._permits.release()

    def _idle(self) -> Connection | None:
        with self._lock:
            return self._free.pop() if self._free else None

    def _fresh(self) -> Connection:
        return connect(
            self._settings,
            purpose=self._purpose,
            statement_timeout_seconds=self._settings.database_timeout_seconds,
            user=self._user,
        )

    def run_all(self, statements: Mapping[str, dict[str, Any]]) -> dict[str, list[Row]]:
        """Runs several named statements, one after the other, and returns the rows of each."""
        return {name: self.run(name, **params) for name, params in statements.items()}

    def run_patiently(self, name: str, /, **params: Any) -> list[Row]:
        """Runs a named statement for durable code: waits until PostgreSQL is back, as DBOS itself does."""
        while True:
            try:
                return self.run(name, **params)
            except psycopg2.Error as error:
                if not is_outage(error):
                    raise
                REACH.wait_for_return(random.uniform(0.3, 0.7))  # noqa: S311

    def _use(self, connection: Connection, name: str, params: dict[str, Any]) -> list[Row]:
        try:
            return query(connection, name, **params)
        except psycopg2.Error as error:
            self._discard(connection, error)
            raise
        finally:
            self._return(connection)

    @staticmethod
    def _discard(connection: Connection, error: psycopg2.Error) -> None:
        # After a failover a read-only session never accepts writes again; a new one may reach the primary.
        if is_read_only(error) or (is_outage(error) and sqlstate(error) is None):
            connection.close()

    def _return(self, connection: Connection) -> None:
        if not connection.closed:
            with self._lock:
                self._free.append(connection)

    def descriptors(self) -> list[int]:
        """Returns the sockets of the free connections."""
        return [connection.fileno() for connection in self._free if not connection.closed]

    def close(self) -> None:
        """Closes the free connections."""
        with self._lock:
            while self._free:
                self._free.pop().close()
