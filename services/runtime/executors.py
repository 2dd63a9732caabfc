"""Who is alive, and whose work is taken over: the two-signal lease and the sweep.

An executor gives two signs of life on a session of its own: a session-level advisory lock, which
the kernel ends together with the process, and a heartbeat on the database's clock, which ends when
the process hangs or the network is cut. Every executor looks at its peers a few times a second. A
peer whose lock is missing on two looks, or whose heartbeat is older than the lease, is declared dead
and its work goes back to the queues, in one transaction.

What this relies on: PostgreSQL ends the session of a dead socket at once (TCP keepalives and
``tcp_user_timeout`` bound the half-open case), and the database's clock does not jump by a lease.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import psycopg2

from services.domain.poison import InFlight, Verdict, judge
from services.runtime.database import Connection, Row, connect, query, transaction, wait_readable
from services.settings import Settings

log = logging.getLogger("holdfast.executors")

Kind = Literal["takeover", "handover", "orphan"]
LOCK_LOST = "lock lost"
HEARTBEAT_LATE = "heartbeat late"

# The orphan anti-join is dearer than a look and rarely finds anything.
_ORPHANS_EVERY_SECONDS = 2.0


@dataclass(frozen=True)
class Identity:
    """One incarnation of a process that can run workflows."""

    executor_id: str
    application: str
    version: str
    role: str
    hostname: str
    pid: int
    port: int
    slots: int
    suspects_queue: str
    leaf_queues: Collection[str] = field(repr=False)

    def purpose(self, what: str) -> str:
        """``application_name`` of a connection: by it a peer ends the sessions of a dead executor."""
        return f"holdfast/{self.executor_id}/{what}"


class Lease:
    """Keeps an executor alive in the eyes of its peers, from a thread that only waits and beats.

    ``on_fenced`` is called once, from that thread, when the executor's row says that it is dead;
    ``on_desired`` with every new desired state (``draining`` or ``crashed``). ``in_flight`` tells
    how many workflows run here.
    """

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        *,
        on_fenced: Callable[[], None],
        on_desired: Callable[[str], None],
        in_flight: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._on_fenced = on_fenced
        self._on_desired = on_desired
        self._in_flight = in_flight
        self._connection: Connection | None = None
        self._lock_key = 0
        self._held = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self.state = "live"
        # Set before this executor signs itself off: then a missing row is its own doing.
        self.leaving = False
        self.clock_difference_seconds = 0.0
        # Monotonic times: the current session's begin (none while there is no session), the last beat.
        self._session_since: float | None = None
        self.last_beat = time.monotonic()
        # The database's clock (epoch seconds) at a monotonic time.
        self.database_clock = (time.time(), self.last_beat)

    def start(self) -> None:
        """Registers the executor together with its lock and starts to beat. Raises ``psycopg2.Error``."""
        connection = self._open()
        with transaction(connection):
            row = query(
                connection,
                "register_executor",
                **{k: getattr(self._identity, k) for k in _REGISTERED},
            )[0]
            self._lock_key = row["lock_key"]
            self._held = bool(query(connection, "take_lock", lock_key=self._lock_key)[0]["held"])
            uptime = query(connection, "database_uptime")[0]["seconds"]
        # A database that came up just now has shaken off everyone's sessions, not only ours.
        self.last_beat = time.monotonic()
        self._session_since = self.last_beat - uptime
        self._connection = connection
        self._thread.start()

    def stop(self) -> None:
        """Stops the beat and closes the session, which frees the lock."""
        self._stop.set()
        self._thread.join(timeout=2)
        if self._connection is not None:
            self._connection.close()

    @property
    def database_up(self) -> bool:
        """Whether the last beat went through: what requests ask before they try."""
        return time.monotonic() - self.last_beat < self._settings.heartbeat_seconds + 0.7

    @property
    def settled_seconds(self) -> float:
        """How long the database has answered this executor without a break: zero right after one.

        A stalled database, a cut network and a pause of this process all look like everyone else's
        silence from here, so nobody is judged before this reaches the lease.
        """
        now = time.monotonic()
        if self._session_since is None or now - self.last_beat > self._break_seconds:
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

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self._connection is None:
                    self._connection = self._open()
                    self._session_since = time.monotonic()
                    self._held = False
                self._beat(self._connection)
                self._wait_for_beat(self._connection)
            except psycopg2.Error as error:
                if self._stop.is_set():
                    return
                log.warning(
                    "lease session lost, taking it again: %s",
                    str(error).strip(),
                    extra={"action": "lease.lost"},
                )
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                    self._session_since = None
                    continue  # the first try comes at once: peers wait only two looks
                self._stop.wait(random.uniform(0.05, 0.15))  # noqa: S311
            except Exception:
                # A living executor whose lease thread ended would be taken over and never learn it.
                log.exception("lease goes on after an error", extra={"action": "lease.failed"})
                self._stop.wait(0.1)

    def _beat(self, connection: Connection) -> None:
        if not self._held:
            # The old session may linger until PostgreSQL notices its end; then the next beat takes it.
            self._held = bool(query(connection, "take_lock", lock_key=self._lock_key)[0]["held"])
        before = time.time()
        rows = query(
            connection,
            "beat",
            executor_id=self._identity.executor_id,
            in_flight=self._in_flight(),
            state=self.state,
        )
        if not rows:
            self._stop.set()
            if self.leaving:
                return
            log.error("declared dead by a peer, stopping at once", extra={"action": "executor.fenced"})
            self._on_fenced()
            return
        self.clock_difference_seconds = (before + time.time()) / 2 - rows[0]["database_time"]
        now = time.monotonic()
        if now - self.last_beat > self._break_seconds:
            self._session_since = now
        self.last_beat = now
        self.database_clock = (rows[0]["database_time"], self.last_beat)
        if rows[0]["desired_state"] != "live":
            self._on_desired(rows[0]["desired_state"])

    def _wait_for_beat(self, connection: Connection) -> None:
        """Waits for the next beat; raises ``psycopg2.Error`` as soon as the server closes the session."""
        seconds = self._settings.heartbeat_seconds if self._held else 0.1
        deadline = time.monotonic() + seconds
        while not self._stop.is_set():
            left = deadline - time.monotonic()
            if left <= 0:
                return
            # An idle session says nothing unless it ends: readable means notice or end of file.
            if wait_readable(connection, min(left, 0.5)):
                connection.poll()
                if connection.closed:
                    raise psycopg2.OperationalError("the lease session was ended")


_REGISTERED = ("executor_id", "application", "version", "role", "hostname", "pid", "port", "slots")


@dataclass
class _Missing:
    since: float
    together: bool


class Sweep:
    """Looks at the peers of one application and takes over the work of the dead.

    Any number of sweeps may run; a verdict is one transaction that only one of them wins. A
    database error ends a round, and the next one finishes it. ``on_takeover`` is told of each
    takeover (reason, verdicts on its work, seconds since the loss) for metrics and logs.
    """

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        *,
        settled_seconds: Callable[[], float],
        on_takeover: Callable[[str, list[Verdict], float], None] = lambda *_: None,
        running: Callable[[], Collection[str]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._settled_seconds = settled_seconds
        self._on_takeover = on_takeover
        self._running = running
        self._strays: dict[tuple[str, str], float] = {}
        self._clock = clock
        self._missing: dict[str, _Missing] = {}
        self._looked_at: float | None = None
        self._judge_from = float("-inf")
        self._orphans_at = 0.0
        self._connection: Connection | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweep", daemon=True)

    def start(self) -> None:
        """Starts to look."""
        self._thread.start()

    def stop(self) -> None:
        """Ends after the round under way."""
        self._stop.set()
        self._thread.join(timeout=2)
        if self._connection is not None:
            self._connection.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            pause = self._settings.sweep_seconds * random.uniform(0.8, 1.2)  # noqa: S311
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = connect(self._settings, purpose=self._identity.purpose("sweep"))
                self.round(self._connection)
                if self._missing:
                    pause = self._settings.second_look_seconds
            except psycopg2.Error as error:
                log.warning(
                    "sweep failed, trying again: %s", str(error).strip(), extra={"action": "sweep.failed"}
                )
                if self._connection is not None:
                    self._connection.close()
            except Exception:
                log.exception("sweep goes on after an error", extra={"action": "sweep.failed"})
            self._stop.wait(pause)

    def round(self, connection: Connection) -> list[str]:
        """One look at everyone; returns the ids of the executors taken over. Raises ``psycopg2.Error``."""
        taken = []
        failed: psycopg2.Error | None = None
        for row, reason in self._suspected(query(connection, "look")):
            try:
                if self.take_over(connection, row["executor_id"], reason):
                    taken.append(row["executor_id"])
                    self._missing.pop(row["executor_id"], None)
            except psycopg2.Error as error:
                # A row that somebody else holds locked must not hold up everyone else's work.
                if connection.closed:
                    raise
                failed = error
        if failed is not None:
            raise failed
        if self._clock() >= self._orphans_at:
            self._orphans_at = self._clock() + _ORPHANS_EVERY_SECONDS
            self._adopt_orphans(connection)
            self._release_strays(connection)
        return taken

    def _suspected(self, rows: list[Row]) -> list[tuple[Row, str]]:
        now = self._clock()
        self._notice_break(rows, now)
        unlocked = {row["executor_id"] for row in rows if row["lock_pid"] is None}
        new = unlocked - self._missing.keys()
        for known in list(self._missing):
            if known not in unlocked:
                del self._missing[known]
        for executor_id in new:
            # Several locks gone at one look are the database's doing, not deaths.
            self._missing[executor_id] = _Missing(now, together=len(new) > 1)
        if now < self._judge_from or self._settled_seconds() < self._settings.lease_seconds:
            # Our own session ended lately, so others may still be coming back: neither sign tells yet.
            return []
        found = []
        for row in rows:
            peer = row["executor_id"]
            if row["application"] != self._identity.application or peer == self._identity.executor_id:
                continue
            missing = self._missing.get(peer)
            twice = missing is not None and now - missing.since >= self._settings.second_look_seconds
            if row["heartbeat_age_seconds"] > self._settings.lease_seconds:
                # Silence with the lock gone is a death, silence with the lock held a hang.
                found.append((row, LOCK_LOST if twice else HEARTBEAT_LATE))
            elif missing is not None and twice and not missing.together:
                found.append((row, LOCK_LOST))
        return found

    def _notice_break(self, rows: list[Row], now: float) -> None:
        """Too long between two looks, or since our own beat: the machine, the database or we stood still.

        Told by the database's clock, since a suspended machine stops the monotonic one. Peers get a
        lease to come back, and looks from before the break tell nothing about now.
        """
        if not rows:
            return
        looked_at = rows[0]["database_time"]
        longest = (self._settings.lease_seconds - self._settings.heartbeat_seconds) / 2
        since_look = 0.0 if self._looked_at is None else looked_at - self._looked_at
        mine = (row for row in rows if row["executor_id"] == self._identity.executor_id)
        since_beat = max((row["heartbeat_age_seconds"] for row in mine), default=0.0)
        if max(since_look, since_beat) > longest:
            self._missing.clear()
            self._judge_from = now + self._settings.lease_seconds
        self._looked_at = looked_at

    def take_over(self, connection: Connection, executor_id: str, reason: str) -> bool:
        """Declares an executor dead and releases its work; false when it lives or another sweep was first."""
        missing = self._missing.get(executor_id)
        with transaction(connection):
            rows = query(
                connection,
                "mark_dead",
                executor_id=executor_id,
                by=self._identity.executor_id,
                reason=reason,
                missing_seconds=self._clock() - missing.since if missing else 0.0,
                lease_seconds=self._settings.lease_seconds,
            )
            if not rows:
                return False
            query(connection, "end_sessions", executor_id=executor_id)
            verdicts = release(
                connection,
                self._identity,
                executor_id,
                kind="takeover",
                reason=reason,
                lost_at=rows[0]["lost_at"],
                crash_limit=self._settings.crash_limit,
                # Killed while it drained (its grace or the database ended): no workflow's doing.
                died=reason == LOCK_LOST and not rows[0]["draining"],
            )
        seconds = rows[0]["seconds_since_loss"]
        log.warning(
            "took over %d workflows of %s (%s) after %.2f s",
            len(verdicts),
            executor_id,
            reason,
            seconds,
            extra={"action": "takeover.completed", "lost_executor_id": executor_id, "reason": reason},
        )
        self._on_takeover(reason, verdicts, seconds)
        return True

    def _adopt_orphans(self, connection: Connection) -> None:
        mine = {"application": self._identity.application, "version": self._identity.version}
        for row in query(connection, "orphans", **mine):
            with transaction(connection):
                verdicts = release(
                    connection,
                    self._identity,
                    row["executor_id"],
                    kind="orphan",
                    reason="no live executor",
                    crash_limit=self._settings.crash_limit,
                )
            if verdicts:
                log.warning(
                    "released %d orphaned workflows of %s",
                    len(verdicts),
                    row["executor_id"],
                    extra={"action": "orphans.released", "lost_executor_id": row["executor_id"]},
                )
                self._on_takeover("orphan", verdicts, 0.0)

    def _release_strays(self, connection: Connection) -> None:
        """Gives back what is recorded as running here and does not run: a claim whose start failed.

        Judged after a whole lease of the same claim; if it does start after all, DBOS refuses its writes.
        """
        if self._running is None:
            return
        now = self._clock()
        mine = {"application": self._identity.application, "version": self._identity.version}
        rows = query(connection, "own_work", executor_id=self._identity.executor_id, **mine)
        running = set(self._running())
        seen = [(row["workflow_id"], row["owner_xid"]) for row in rows if row["workflow_id"] not in running]
        self._strays = {claim: self._strays.get(claim, now) for claim in seen}
        lost = {
            claim[0] for claim, since in self._strays.items() if now - since >= self._settings.lease_seconds
        }
        if not lost:
            return
        with transaction(connection):
            verdicts = release(
                connection,
                self._identity,
                self._identity.executor_id,
                kind="orphan",
                reason="not running here",
                crash_limit=self._settings.crash_limit,
                only=lost,
            )
        log.warning(
            "released %d workflows that never started", len(verdicts), extra={"action": "strays.released"}
        )
        self._on_takeover("stray", verdicts, 0.0)


def release(
    connection: Connection,
    identity: Identity,
    executor_id: str,
    *,
    kind: Kind,
    reason: str,
    crash_limit: int,
    lost_at: datetime | None = None,
    died: bool = False,
    only_waiting: bool = False,
    only: Collection[str] | None = None,
) -> list[Verdict]:
    """Gives the unfinished work of an executor back to the queues; returns what happened to each.

    Runs inside the caller's transaction. With ``only_waiting`` only workflows that wait for children
    go, with ``only`` only those with these ids; ``died`` counts a crash for those to blame. Work of
    other versions stays: this code could not continue it.
    """
    rows = query(
        connection,
        "unfinished_work",
        executor_id=executor_id,
        application=identity.application,
        version=identity.version,
    )
    work = [
        InFlight(**row)
        for row in rows
        if (row["waits_for_children"] or not only_waiting) and (only is None or row["workflow_id"] in only)
    ]
    verdicts = judge(
        work,
        died=died,
        crash_limit=crash_limit,
        suspects_queue=identity.suspects_queue,
        leaf_queues=identity.leaf_queues,
    )
    if not verdicts:
        return []
    counted = [v for v in verdicts if v.counted]
    if counted:
        query(
            connection,
            "count_crashes",
            workflow_ids=[v.work.workflow_id for v in counted],
            crashes=[v.crashes for v in counted],
            steps=[v.work.steps_recorded for v in counted],
            queues=[v.work.home_queue or v.work.queue_name for v in counted],
            parked=[v.action == "park" for v in counted],
        )
    parked = [v.work.workflow_id for v in verdicts if v.action == "park"]
    if parked:
        query(connection, "park_work", workflow_ids=parked, executor_id=executor_id)
        log.error("parked %s", ", ".join(parked), extra={"action": "workflow.parked", "workflow_ids": parked})
    released = [v for v in verdicts if v.action != "park"]
    query(
        connection,
        "release_work",
        executor_id=executor_id,
        workflow_ids=[v.work.workflow_id for v in released],
        queues=[v.queue_name for v in released],
    )
    _record(
        connection, verdicts, executor_id=executor_id, by=identity, kind=kind, reason=reason, lost_at=lost_at
    )
    return verdicts


def _record(
    connection: Connection, verdicts: list[Verdict], *, executor_id: str, by: Identity, **fields: Any
) -> None:
    query(
        connection,
        "record_handovers",
        workflow_ids=[v.work.workflow_id for v in verdicts],
        workflow_names=[v.work.name for v in verdicts],
        executor_id=executor_id,
        by=by.executor_id,
        **fields,
    )
