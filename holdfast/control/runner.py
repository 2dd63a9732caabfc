"""Carries out the control operations of the API: within a request as far as it gets, then in a thread."""

from __future__ import annotations

import logging
import threading

from holdfast.control.kinds import kinds_of
from holdfast.control.operations import Requested
from holdfast.control.worker import Worker, run
from holdfast.identity import Identity
from holdfast.postgres.database import Connection, OpsPool, Row, connect
from holdfast.postgres.session_thread import SessionThread
from holdfast.settings import Settings

log = logging.getLogger("holdfast.control")

REQUEST_SECONDS = 2.0
"""How long a request carries out its operation before it answers that the operation continues."""
_SCAN_SECONDS = 60.0
_STATEMENT_SECONDS = 10.0
# Operations whose process has ended are found by a poll.
_POLL_SECONDS = 2.0
_PAUSED_SECONDS = 0.1
_BETWEEN_BATCHES_SECONDS = 0.01


class Operations:
    """The control operations of one process."""

    def __init__(self, settings: Settings, identity: Identity, pool: OpsPool) -> None:
        self._pool = pool
        self._kinds = kinds_of(settings)
        self._worker = Worker(self._kinds, scan_seconds=_SCAN_SECONDS)
        self._wake = threading.Event()
        self._has_paused = False
        self.session = SessionThread(
            "operations",
            connect=lambda: connect(
                settings,
                purpose=identity.purpose("operations"),
                statement_timeout_seconds=_STATEMENT_SECONDS,
            ),
            work=self._round,
            log=log,
            text="control operations wait for PostgreSQL",
            action="operations.lost",
        )

    def request(self, requested: Requested) -> Row:
        """Begins an operation, carries it out for about two seconds, and returns its row. Blocks.

        If it has not ended by then, the thread continues it. Raises `Conflict` and ``psycopg2.Error``.
        """
        row = run(self._pool.connection, self._kinds, requested, seconds=REQUEST_SECONDS)
        if row["ended_at"] is None:
            self._wake.set()
        return row

    def start(self) -> None:
        """Starts the thread. It also continues what other processes left unfinished."""
        self.session.start()

    def stop(self) -> None:
        """Ends the thread after the batch that it is at."""
        self.session.stopping.set()
        self._wake.set()
        self.session.stop()

    def _round(self, connection: Connection) -> None:
        self._wake.clear()
        row = self._worker.advance(connection)
        self.session.works()
        if row is None:
            self._wake.wait(_PAUSED_SECONDS if self._has_paused else _POLL_SECONDS)
            self._has_paused = False
            return
        self._has_paused |= row["ended_at"] is None and row["note"] is not None
        self.session.stopping.wait(_BETWEEN_BATCHES_SECONDS)
