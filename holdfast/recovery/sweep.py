"""The sweep: every executor polls its peers, of any application, and takes over the work of the dead.

A peer whose lock is missing on two looks, or whose heartbeat is older than the lease, is declared dead
and its work goes back to the queues, in one transaction. docs/design/recovery.md says when nobody is judged.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import psycopg2

from holdfast.identity import Identity
from holdfast.postgres.database import Connection, Row, connect, query, transaction
from holdfast.postgres.session_thread import SessionThread
from holdfast.recovery.blame import Verdict
from holdfast.recovery.strays import Strays
from holdfast.recovery.takeover import Lost, release
from holdfast.settings import SWEEP_JITTER, Settings

log = logging.getLogger("holdfast.sweep")

LOCK_LOST = "lock lost"
HUNG = "hung"
"""Lock missing, heartbeat late, other sessions there: its watchdog closed the lease session."""
HEARTBEAT_LATE = "heartbeat late"

# A crash of a process and a hang are somebody's doing; a pause, a cut network and a lost host are not.
_COUNTED = (LOCK_LOST, HUNG)

# The orphan anti-join is dearer than a look and rarely finds anything.
_ORPHANS_EVERY_SECONDS = 2.0


@dataclass
class _Missing:
    since: float
    together: bool


class Sweep:
    """Polls the peers of every application and takes over the work of the dead.

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
        self._strays = Strays(settings, identity, running, on_takeover, clock) if running else None
        self._clock = clock
        self._missing: dict[str, _Missing] = {}
        self._watching_since = float("inf")
        self._looked_at: float | None = None
        self._judge_from = float("-inf")
        self._orphans_at = 0.0
        self.session = SessionThread(
            "sweep",
            connect=lambda: connect(settings, purpose=identity.purpose("sweep")),
            work=self._round_and_pause,
            log=log,
            text="sweep failed",
            action="sweep.failed",
            pause=self._pause_seconds,
        )

    def start(self) -> None:
        """Starts to look."""
        self.session.start()

    def stop(self) -> None:
        """Ends after the round under way; takes a second at most."""
        self.session.stop()

    def _round_and_pause(self, connection: Connection) -> None:
        self.round(connection)
        self.session.works()
        self.session.stopping.wait(self._pause_seconds())

    def _pause_seconds(self) -> float:
        if self._missing:
            return self._settings.second_look_seconds
        return self._settings.sweep_seconds * random.uniform(1 - SWEEP_JITTER, 1 + SWEEP_JITTER)  # noqa: S311

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
            if self._strays is not None:
                self._strays.release(connection)
        return taken

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
            # Several locks gone at one look are the database's doing, not deaths.
            self._missing[executor_id] = _Missing(now, together=len(new) > 1)
        if now < self._judge_from or self._settled_seconds() < self._settings.lease_seconds:
            # Our own session ended lately, so others may still be coming back: neither sign tells yet.
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
                # A pause, a cut network. A sweeper that has only begun to poll cannot tell it from a machine
                # that was suspended and whose processes are about to beat again.
                if now - self._watching_since >= 2 * self._settings.heartbeat_seconds:
                    found.append((row, HEARTBEAT_LATE))
            elif twice and missing is not None and (late or not missing.together):
                found.append((row, LOCK_LOST))
        return found

    def _is_left_to_others(self, row: Row, rows: list[Row]) -> bool:
        """Whether executors of the suspect's own application come first, which can also end its sessions.

        They have a lease for it. Where none of them gives its signs of life, everyone judges at once.
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
        """Too long between two looks, or since our own beat: the machine, the database or we stood still.

        Told by the database's clock, since a suspended machine stops the monotonic one. Peers get a
        lease to come back, and looks from before the break tell nothing about now. Both limits and one
        beat of a peer make up the lease: of a silence that all shared, even two in a row with a look
        between them, something is noticed before a peer's heartbeat is as old as the lease.
        """
        if not rows:
            return
        looked_at = rows[0]["database_time"]
        since_look = 0.0 if self._looked_at is None else looked_at - self._looked_at
        mine = (row for row in rows if row["executor_id"] == self._identity.executor_id)
        since_beat = max((row["heartbeat_age_seconds"] for row in mine), default=0.0)
        look_late = since_look > self._settings.longest_pause_seconds + self._settings.lateness_seconds
        beat_late = since_beat > self._settings.heartbeat_seconds + self._settings.lateness_seconds
        if look_late or beat_late:
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
            [dead] = rows
            mine = dead["application"] == self._identity.application
            end = "end_sessions" if mine else "end_sessions_of_another_role"
            query(connection, end, executor_id=executor_id)
            verdicts = release(
                connection,
                self._identity,
                Lost.of(dead, self._identity),
                kind="takeover",
                reason=dead["reason"],
                lost_at=dead["lost_at"],
                crash_limit=self._settings.crash_limit,
                # Until the hung process is replaced. Else what hangs stops one executor after the other, and
                # healthy work has none meanwhile.
                delay_seconds=self._settings.lease_seconds if dead["reason"] == HUNG else 0.0,
                # Killed while it drained (its grace or the database ended): no workflow's doing. Nor is an
                # end while PostgreSQL was away, which may have been an orderly stop that could not say so.
                died=dead["reason"] in _COUNTED and not dead["draining"] and not dead["never_came_back"],
            )
        reason, seconds = dead["reason"], dead["seconds_since_loss"]
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
        for row in query(connection, "orphans"):
            with transaction(connection):
                verdicts = release(
                    connection,
                    self._identity,
                    Lost.of(row, self._identity),
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
