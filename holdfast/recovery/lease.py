"""The lease of an executor, which consists of two liveness signals. ``sweep`` judges the leases of the peers.

An executor gives both signals on a separate session. A session-level advisory lock ends with the process,
because the kernel closes its socket. A heartbeat on the database's clock ends if the process hangs or the
network is cut.

This relies on two facts: PostgreSQL ends the session of a dead socket immediately (TCP keepalives and
``tcp_user_timeout`` bound the half-open case), and the database's clock does not jump by a lease.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import psycopg2

from holdfast.executor_settings import ExecutorSettings
from holdfast.identity import Identity
from holdfast.postgres.database import Connection, connect, query, transaction, wait_readable
from holdfast.postgres.session_thread import SessionThread, retry_pause_seconds

log = logging.getLogger("holdfast.executors")

EXIT_FENCED = 75
"""The exit code of a process that its peers declared dead."""


class Lease:
    """Keeps an executor alive for its peers, from a thread that only waits and sends heartbeats.

    The thread calls ``on_fenced`` once, when the executor's row marks it as dead, and ``on_desired`` with
    every new desired state (``draining`` or ``crashed``). ``in_flight`` returns how many workflows run here.
    ``on_session`` is called with the socket of each lease session, and with None before it is closed.
    """

    def __init__(
        self,
        settings: ExecutorSettings,
        identity: Identity,
        *,
        on_fenced: Callable[[], None],
        on_desired: Callable[[str], None],
        in_flight: Callable[[], int],
        on_session: Callable[[int | None], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._on_session = on_session
        self._on_fenced = on_fenced
        self._on_desired = on_desired
        self._in_flight = in_flight
        self._lock_key = 0
        self._held = False
        self.session = SessionThread(
            "lease",
            connect=self._open,
            work=self._heartbeat_and_wait,
            log=log,
            text="lease session lost",
            action="lease.lost",
            # A read-only server answers immediately, so retry less often.
            pause=lambda: retry_pause_seconds() * (4 if self.outage else 1),
            # Peers judge after two polls, so do not wait, unless no heartbeat succeeded on the lost session.
            retry_at_once=True,
            opened=self._opened,
            lost=self._lost,
            closing=lambda: on_session(None),
        )
        self.state = "live"
        # Set before this executor records its own end, which explains a missing row.
        self.leaving = False
        self.clock_difference_seconds = 0.0
        # Monotonic times: the start of the current session (None without a session), the last heartbeat.
        self._session_since: float | None = None
        self.last_heartbeat = time.monotonic()
        # The database's clock (epoch seconds) at a monotonic time.
        self.database_clock = (time.time(), self.last_heartbeat)

    def start(self) -> None:
        """Registers the executor with its lock and starts the heartbeats. Raises ``psycopg2.Error``."""
        connection = self._open()
        with transaction(connection):
            row = query(
                connection,
                "register_executor",
                **self._identity.registered(),
            )[0]
            self._lock_key = row["lock_key"]
            self._held = bool(query(connection, "take_lock", lock_key=self._lock_key)[0]["held"])
            before = time.time()
            row = query(connection, "database_uptime")[0]
            # The database's clock must be known even before the first heartbeat.
            self._set_clock(before, row["database_time"])
        # A restart of the database ends the sessions of all executors, so the settled time begins with it.
        self.last_heartbeat = time.monotonic()
        self._session_since = self.last_heartbeat - row["seconds"]
        self._on_session(connection.fileno())
        self.session.start(connection)

    def stop(self) -> None:
        """Stops the heartbeats and closes the session, which releases the lock. Takes at most a second."""
        self.session.stop()

    @property
    def database_up(self) -> bool:
        """Whether PostgreSQL is reachable according to the heartbeats. Requests check this first.

        A lost session is detected immediately. A late heartbeat may be due to a busy machine, so it has some
        time. Until then the time limit of a request ends its wait for PostgreSQL.
        """
        silence = time.monotonic() - self.last_heartbeat
        return self._session_since is not None and silence < self._break_seconds

    @property
    def outage(self) -> str | None:
        """The state of PostgreSQL in one word, by the last failed heartbeat. None if the error shows none."""
        return self.session.outage

    @property
    def settled_seconds(self) -> float:
        """Time for which the database has answered this executor without a break.

        From here, a stalled database, a cut network and a pause of this process all look like silence of the
        peers. Therefore no peer is judged before this time reaches the lease.
        """
        now = time.monotonic()
        if self._session_since is None or now - self.last_heartbeat > self._break_seconds:
            return 0.0
        return now - self._session_since

    @property
    def _break_seconds(self) -> float:
        return 2 * self._settings.heartbeat_seconds + 0.5

    def _open(self) -> Connection:
        return connect(
            self._settings,
            purpose=self._identity.purpose("lease"),
            statement_timeout_seconds=max(1.0, self._settings.lease_seconds / 2),
        )

    def _opened(self, connection: Connection) -> None:
        self._on_session(connection.fileno())
        self._session_since = time.monotonic()
        self._held = False

    def _lost(self) -> None:
        self._session_since = None

    def _heartbeat_and_wait(self, connection: Connection) -> None:
        self._send_heartbeat(connection)
        self.session.works()
        self._wait_for_next_heartbeat(connection)

    def _send_heartbeat(self, connection: Connection) -> None:
        if not self._held:
            # The old session may hold the lock until PostgreSQL detects its end. Each heartbeat tries again.
            self._held = bool(query(connection, "take_lock", lock_key=self._lock_key)[0]["held"])
        before = time.time()
        rows = query(
            connection,
            "send_heartbeat",
            executor_id=self._identity.executor_id,
            in_flight=self._in_flight(),
            state=self.state,
        )
        if not rows:
            self.session.stopping.set()
            if self.leaving:
                return
            log.error("declared dead by a peer, stopping immediately", extra={"action": "executor.fenced"})
            self._on_fenced()
            return
        self._set_clock(before, rows[0]["database_time"])
        now = time.monotonic()
        if now - self.last_heartbeat > self._break_seconds:
            self._session_since = now
        self.last_heartbeat = now
        if rows[0]["desired_state"] != "live":
            self._on_desired(rows[0]["desired_state"])

    def _set_clock(self, asked_at: float, database_time: float) -> None:
        self.clock_difference_seconds = (asked_at + time.time()) / 2 - database_time
        self.database_clock = (database_time, time.monotonic())

    def _wait_for_next_heartbeat(self, connection: Connection) -> None:
        """Waits until the next heartbeat. Raises ``psycopg2.Error`` if the server closes the session."""
        seconds = self._settings.heartbeat_seconds if self._held else 0.1
        deadline = time.monotonic() + seconds
        while not self.session.stopping.is_set():
            left = deadline - time.monotonic()
            if left <= 0:
                return
            # An idle session is readable only if it has a notice or the end of file.
            if wait_readable(connection, min(left, 0.5)):
                connection.poll()
                if connection.closed:
                    raise psycopg2.OperationalError("the lease session was ended")
