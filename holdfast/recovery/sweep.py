"""The sweep: every executor polls its peers, of any application, and takes over the work of dead ones.

A peer is declared dead if its lock is missing in two polls, or if its heartbeat is older than the lease. Its
work returns to the queues in the same transaction. docs/design/recovery.md describes when no peer is judged.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg2

from holdfast.executor_settings import SWEEP_JITTER, ExecutorSettings
from holdfast.identity import Identity
from holdfast.postgres.database import Connection, Row, connect, query, transaction
from holdfast.postgres.session_thread import PollingThread
from holdfast.recovery.blame import Verdict
from holdfast.recovery.orphans import Orphans
from holdfast.recovery.strays import Strays
from holdfast.recovery.takeover import LostExecutor, release

log = logging.getLogger("holdfast.sweep")

LOCK_LOST = "lock lost"
HUNG = "hung"
"""Lock missing and heartbeat late, but other sessions open: the peer's watchdog closed its lease session."""
HEARTBEAT_LATE = "heartbeat late"

# A workflow may cause a crash or a hang of its process, but not a pause, a cut network or a lost host.
_COUNTED = (LOCK_LOST, HUNG)

# The anti-join for orphans costs more than a poll of the peers, and rarely finds any.
_ORPHANS_EVERY_SECONDS = 2.0
_FOLD_EVERY_SECONDS = 15.0


@dataclass
class _Missing:
    since: float
    together: bool


@contextmanager
def _kept(failures: list[psycopg2.Error], connection: Connection) -> Iterator[None]:
    """Keeps an error for the end of the round: a row that is locked or refused must not delay other work."""
    try:
        yield
    except psycopg2.Error as error:
        if connection.closed:
            raise
        failures.append(error)


class Sweep:
    """Polls the peers of every application and takes over the work of dead ones.

    Any number of sweeps may run: a takeover is one transaction, which only one of them wins. A database error
    ends a round, and the next round completes its work. ``on_takeover`` is called with each takeover (reason,
    verdicts on its work, seconds since the loss) for metrics and logs.
    """

    def __init__(
        self,
        settings: ExecutorSettings,
        identity: Identity,
        *,
        settled_seconds: Callable[[], float],
        on_takeover: Callable[[str, list[Verdict], float], None] = lambda *_: None,
        running: Callable[[], Collection[str]] | None = None,
        settles: Callable[[str | None], Callable[[], bool]] = lambda _: lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._settled_seconds = settled_seconds
        self._on_takeover = on_takeover
        self._orphans = Orphans(settings, identity, settled_seconds, on_takeover, clock)
        self._strays = (
            Strays(settings, identity, running, on_takeover, clock, settles=settles) if running else None
        )
        self._clock = clock
        self._missing: dict[str, _Missing] = {}
        self._watching_since = float("inf")
        self._polled_at: float | None = None
        self._judge_from = float("-inf")
        self._orphans_at = self._fold_at = 0.0
        self.session = PollingThread(
            "sweep",
            connect=lambda: connect(settings, purpose=identity.purpose("sweep")),
            poll=self.round,
            log=log,
            action="sweep.failed",
            pause=self._pause_seconds,
        )

    def start(self) -> None:
        """Starts the polls."""
        self.session.start()

    def stop(self) -> None:
        """Stops after the current round. Takes at most a second."""
        self.session.stop()

    def _pause_seconds(self) -> float:
        if self._missing:
            return self._settings.second_look_seconds
        return self._settings.sweep_seconds * random.uniform(1 - SWEEP_JITTER, 1 + SWEEP_JITTER)  # noqa: S311

    def round(self, connection: Connection) -> list[str]:
        """Polls all peers once. Returns the ids of the executors taken over. Raises ``psycopg2.Error``."""
        taken = []
        failures: list[psycopg2.Error] = []
        for row, reason in self._suspected(query(connection, "poll_executors")):
            with _kept(failures, connection):
                if self.take_over(connection, row["executor_id"], reason):
                    taken.append(row["executor_id"])
                    self._missing.pop(row["executor_id"], None)
        if self._clock() >= self._orphans_at:
            self._orphans_at = self._clock() + _ORPHANS_EVERY_SECONDS
            self._release_lost(connection, failures)
        if self._clock() >= self._fold_at:
            self._fold_at = self._clock() + _FOLD_EVERY_SECONDS
            with _kept(failures, connection):
                if query(connection, "fold_ended")[0]["more"]:
                    self._fold_at = 0.0  # in the next round: together it would hold up a takeover
        if failures:
            raise failures[-1]
        return taken

    def _release_lost(self, connection: Connection, failures: list[psycopg2.Error]) -> None:
        parts: list[Orphans | Strays] = [self._orphans]
        if self._strays is not None:
            parts.append(self._strays)
        found = None
        try:
            with transaction(connection):  # one, because an idle process should cost few
                found = [part.find(connection) for part in parts]
        except psycopg2.Error:
            # What cannot be read for one of them must not delay the other: each then reads for itself.
            if connection.closed:
                raise
        for number, part in enumerate(parts):
            with _kept(failures, connection):
                part.release(connection, part.find(connection) if found is None else found[number])

    def _suspected(self, rows: list[Row]) -> list[tuple[Row, str]]:
        now = self._clock()
        self._watching_since = min(self._watching_since, now)
        self._notice_break(rows, now)
        unlocked = {row["executor_id"] for row in rows if row["lock_pid"] is None}
        new = unlocked - self._missing.keys()
        for known in list(self._missing):
            if known not in unlocked:
                del self._missing[known]
        for executor_id in new:
            # If several locks disappear between two polls, the database ended the sessions.
            self._missing[executor_id] = _Missing(now, together=len(new) > 1)
        if now < self._judge_from or self._settled_seconds() < self._settings.lease_seconds:
            # Our own session ended recently, so peers may still be reconnecting: no signal is reliable yet.
            return []
        found = []
        for row in rows:
            peer = row["executor_id"]
            if peer == self._identity.executor_id or self._is_left_to_others(row, rows):
                continue
            missing = self._missing.get(peer)
            twice = missing is not None and now - missing.since >= self._settings.second_look_seconds
            late = row["heartbeat_age_seconds"] > self._settings.lease_seconds
            if late and missing is None:
                # A pause or a cut network. A sweeper that has just started cannot distinguish it from a
                # machine that was suspended, whose processes are about to send heartbeats again.
                if now - self._watching_since >= 2 * self._settings.heartbeat_seconds:
                    found.append((row, HEARTBEAT_LATE))
            elif twice and missing is not None and (late or not missing.together):
                found.append((row, LOCK_LOST))
        return found

    def _is_left_to_others(self, row: Row, rows: list[Row]) -> bool:
        """Whether executors of the suspect's own application take precedence: they can also end its sessions.

        They have one lease of time for it. If none of them is alive, every executor judges immediately.
        """
        lease_seconds = self._settings.lease_seconds
        if (
            row["application"] == self._identity.application
            or row["heartbeat_age_seconds"] > 2 * lease_seconds
        ):
            return False
        return any(
            other["application"] == row["application"]
            and other["lock_pid"] is not None
            and other["heartbeat_age_seconds"] <= lease_seconds
            for other in rows
        )

    def _notice_break(self, rows: list[Row], now: float) -> None:
        """Detects a pause of the machine, the database or this process, by a late poll or a late heartbeat.

        Uses the database's clock, because a suspended machine stops the monotonic clock. After a pause, peers
        have one lease to reconnect, and polls from before it are void. Both limits plus one heartbeat
        interval of a peer equal the lease. A pause that all share, even two in a row with a poll between
        them, is therefore detected before a peer's heartbeat is as old as the lease.
        """
        if not rows:
            return
        polled_at = rows[0]["database_time"]
        since_poll = 0.0 if self._polled_at is None else polled_at - self._polled_at
        mine = (row for row in rows if row["executor_id"] == self._identity.executor_id)
        since_heartbeat = max((row["heartbeat_age_seconds"] for row in mine), default=0.0)
        poll_late = since_poll > self._settings.longest_pause_seconds + self._settings.lateness_seconds
        heartbeat_late = since_heartbeat > self._settings.heartbeat_seconds + self._settings.lateness_seconds
        if poll_late or heartbeat_late:
            self._missing.clear()
            self._judge_from = now + self._settings.lease_seconds
        self._polled_at = polled_at

    def take_over(self, connection: Connection, executor_id: str, reason: str) -> bool:
        """Declares an executor dead and releases its work. False if it lives or another sweep was first."""
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
            [dead] = rows
            mine = dead["application"] == self._identity.application
            end = "end_sessions" if mine else "end_sessions_of_another_role"
            query(connection, end, executor_id=executor_id)
            verdicts = release(
                connection,
                self._identity,
                LostExecutor.from_row(dead, self._identity),
                kind="takeover",
                reason=dead["reason"],
                lost_at=dead["lost_at"],
                crash_limit=self._settings.crash_limit,
                lease_seconds=self._settings.lease_seconds,
                # Delay until the hung process is replaced. Otherwise a workflow that hangs could block one
                # executor after another, and healthy work would have none.
                delay_seconds=self._settings.lease_seconds if dead["reason"] == HUNG else 0.0,
                # No workflow is to blame for a kill during a drain (the grace period or the database ended),
                # nor for an end during an outage, which may be an orderly stop that could not be recorded.
                died=dead["reason"] in _COUNTED and not dead["draining"] and not dead["never_came_back"],
            )
        reason, seconds = dead["reason"], dead["takeover_seconds"]
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
