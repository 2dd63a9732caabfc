"""Sessions for the statements that every workflow pays for: psycopg 3 alone, each its own transaction.

SQLAlchemy costs a worker more than PostgreSQL does: 0.35 ms of CPU for a SELECT by key in a transaction of
its own, 0.03 ms here. Errors come as SQLAlchemy's, which is what DBOS's retries know.
"""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.rows import DictRow, dict_row

from holdfast.postgres.database import CONNECT_OPTIONS, Row, sql, wait_readable
from holdfast.postgres.outage import is_read_only
from holdfast.settings import Settings

# A statement is prepared at its first repetition.
SESSION_OPTIONS: dict[str, Any] = {**CONNECT_OPTIONS, "prepare_threshold": 1}
"""What each session over psycopg 3 connects with."""


# Every statement finds its rows by their keys, however full or empty the tables are and whatever is known of
# them; and it is planned once a session: planning a claim takes as long as running it.
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
    """At most ``size`` at once; who finds none free waits. The session used last is used first."""

    def __init__(self, settings: Settings, *, purpose: str, size: int) -> None:
        self._url = settings.database_url
        self._purpose = purpose
        self._places = threading.Semaphore(size)
        self._free: list[psycopg.Connection[DictRow]] = []
        self._closed = False

    def run(self, name: str, /, **params: Any) -> list[Row]:
        """The rows of a named statement. Raises ``sqlalchemy.exc.DBAPIError``."""
        connection: psycopg.Connection[DictRow] | None = None
        with self._places:
            try:
                connection = self._take()
                rows: list[Row] = connection.execute(sql(name), params).fetchall()
            except psycopg.Error as error:
                if is_read_only(error):
                    self._drop_all(connection)
                # A session that ended under the statement is worth another try, whatever the driver says.
                ended = connection is not None and connection.closed
                raise sa.exc.DBAPIError.instance(
                    name, None, error, psycopg.Error, connection_invalidated=ended
                ) from error
            finally:
                if connection is not None:
                    self._give_back(connection)
        return rows

    def _take(self) -> psycopg.Connection[DictRow]:
        while (connection := self._pop()) is not None:
            # Between two uses the server has nothing to say but that the session ended.
            if not connection.closed and not wait_readable(connection, 0):
                return connection
            connection.close()
        return psycopg.connect(
            self._url,
            autocommit=True,
            row_factory=dict_row,
            application_name=self._purpose[:63],
            options=_PLANS,
            **SESSION_OPTIONS,
        )

    def _pop(self) -> psycopg.Connection[DictRow] | None:
        # Not "if any, pop": another thread may be quicker.
        try:
            return self._free.pop()
        except IndexError:
            return None

    def _give_back(self, connection: psycopg.Connection[DictRow]) -> None:
        if self._closed:
            connection.close()
        elif not connection.closed:
            self._free.append(connection)

    def _drop_all(self, current: psycopg.Connection[DictRow] | None) -> None:
        """After a failover all of them may be sessions of the old primary: the next ones are new."""
        if current is not None:
            current.close()
        self._close_free()

    def close(self) -> None:
        """Closes the free sessions, and the others as they come back."""
        self._closed = True
        self._close_free()

    def _close_free(self) -> None:
        while (connection := self._pop()) is not None:
            connection.close()
