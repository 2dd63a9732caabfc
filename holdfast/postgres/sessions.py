"""Sessions for the statements that every workflow runs: psycopg 3 without SQLAlchemy, one transaction each.

SQLAlchemy costs a worker more CPU than PostgreSQL does: a SELECT by key in its own transaction takes 0.35 ms
of CPU with it and 0.03 ms here. Errors are raised as SQLAlchemy's, because DBOS's retries expect those.
"""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.rows import DictRow, dict_row

from holdfast.executor_settings import ExecutorSettings
from holdfast.postgres.database import CONNECT_OPTIONS, Row, server_options, wait_readable
from holdfast.postgres.outage import is_read_only
from holdfast.postgres.pooler import set_options
from holdfast.postgres.statements import sql

# The server prepares a statement when it runs for the second time.
SESSION_OPTIONS: dict[str, Any] = {**CONNECT_OPTIONS, "prepare_threshold": 1}
"""Connection options of each session over psycopg 3."""


# Every statement finds its rows by their keys, whatever the table sizes and the planner's statistics. It is
# planned once per session, because planning a claim takes as long as running it.
_PLANS = " ".join(
    f"-c {setting}"
    for setting in (
        "plan_cache_mode=force_generic_plan",
        "enable_seqscan=off",
        "enable_bitmapscan=off",
        "enable_hashjoin=off",
        "enable_mergejoin=off",
    )
)


class Sessions:
    """A LIFO pool of at most ``size`` connections. Callers block while none is free."""

    def __init__(self, settings: ExecutorSettings, *, purpose: str, size: int) -> None:
        self._url = settings.database_url
        self._purpose = purpose
        self._permits = threading.Semaphore(size)
        self._free: list[psycopg.Connection[DictRow]] = []
        self._closed = False

    def run(self, name: str, /, **params: Any) -> list[Row]:
        """Runs a named statement and returns its rows. Raises ``sqlalchemy.exc.DBAPIError``."""
        connection: psycopg.Connection[DictRow] | None = None
        with self._permits:
            try:
                connection = self._acquire()
                rows: list[Row] = connection.execute(sql(name), params).fetchall()
            except psycopg.Error as error:
                if is_read_only(error):
                    self._drop_all(connection)
                # If the session ended during the statement, a retry makes sense whatever error the driver
                # raised.
                ended = connection is not None and connection.closed
                raise sa.exc.DBAPIError.instance(
                    name, None, error, psycopg.Error, connection_invalidated=ended
                ) from error
            finally:
                if connection is not None:
                    self._release(connection)
        return rows

    def _acquire(self) -> psycopg.Connection[DictRow]:
        while (connection := self._pop()) is not None:
            # An idle session becomes readable only because the server ended it.
            if not connection.closed and not wait_readable(connection, 0):
                return connection
            connection.close()
        connection = psycopg.connect(
            self._url,
            autocommit=True,
            row_factory=dict_row,
            application_name=self._purpose[:63],
            options=server_options(self._url, _PLANS),
            **SESSION_OPTIONS,
        )
        set_options(connection.execute, _PLANS)
        return connection

    def _pop(self) -> psycopg.Connection[DictRow] | None:
        # No check before the pop: another thread may empty the list in between.
        try:
            return self._free.pop()
        except IndexError:
            return None

    def _release(self, connection: psycopg.Connection[DictRow]) -> None:
        if self._closed:
            connection.close()
        elif not connection.closed:
            self._free.append(connection)

    def _drop_all(self, current: psycopg.Connection[DictRow] | None) -> None:
        """Closes all sessions: after a failover they may all belong to the old primary."""
        if current is not None:
            current.close()
        self._close_free()

    def descriptors(self) -> list[int]:
        """Returns the sockets of the free sessions."""
        return [connection.fileno() for connection in list(self._free) if not connection.closed]

    def close(self) -> None:
        """Closes the free sessions now, and the others when they are released."""
        self._closed = True
        self._close_free()

    def _close_free(self) -> None:
        while (connection := self._pop()) is not None:
            connection.close()
