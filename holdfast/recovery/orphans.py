"""Orphans: running work whose executor is not live, and that no takeover has released."""

from __future__ import annotations

import logging
from collections.abc import Callable

from holdfast.executor_settings import ExecutorSettings
from holdfast.identity import Identity
from holdfast.postgres.database import Connection, Row, query, transaction
from holdfast.recovery.blame import Verdict
from holdfast.recovery.takeover import LostExecutor, release

log = logging.getLogger("holdfast.sweep")

ALONE_SECONDS = 30.0
"""Longer than DBOS takes to open its sessions again after a restart of PostgreSQL."""


class Orphans:
    """Releases work of executors that are gone, or that never registered and cannot run any more.

    A process without Holdfast registers no executor, so its work looks like that of a lost one. Releasing
    what it still runs would run it twice, again and again. So work of an unknown executor is left alone
    until no session of plain DBOS was seen in this database for `ALONE_SECONDS`.
    """

    def __init__(
        self,
        settings: ExecutorSettings,
        identity: Identity,
        settled_seconds: Callable[[], float],
        on_release: Callable[[str, list[Verdict], float], None],
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._settled_seconds = settled_seconds
        self._on_release = on_release
        self._clock = clock
        self._alone_since: float | None = None
        self._left: set[str] = set()

    def find(self, connection: Connection) -> list[Row]:
        """Returns the executors of orphans, for `release`. Raises ``psycopg2.Error``."""
        return query(connection, "orphans")

    def release(self, connection: Connection, rows: list[Row]) -> None:
        """Releases those of them that may be released now. Raises ``psycopg2.Error``."""
        unknown = {row["executor_id"] for row in rows if not row["registered"]}
        may_release_unknown = bool(unknown) and self._are_alone(connection)
        for row in rows:
            if row["registered"] or may_release_unknown:
                self._release(connection, LostExecutor.from_row(row, self._identity))
        if not may_release_unknown:
            self._warn(unknown)

    def _are_alone(self, connection: Connection) -> bool:
        """Whether no process without Holdfast can have been running here for a time."""
        now = self._clock()
        if self._settled_seconds() < ALONE_SECONDS or query(connection, "plain_sessions")[0]["connected"]:
            self._alone_since = None
            return False
        if self._alone_since is None:
            self._alone_since = now
        return now - self._alone_since >= ALONE_SECONDS

    def _warn(self, unknown: set[str]) -> None:
        for executor_id in unknown - self._left:
            log.warning(
                "workflows run under the executor %s, which did not register: a process without Holdfast runs"
                " them, or did. They go on elsewhere %.0f s after the last such process has ended",
                executor_id,
                ALONE_SECONDS,
                extra={"action": "orphans.left"},
            )
        self._left = unknown

    def _release(self, connection: Connection, lost: LostExecutor) -> None:
        with transaction(connection):
            verdicts = release(
                connection,
                self._identity,
                lost,
                kind="orphan",
                reason="no live executor",
                crash_limit=self._settings.crash_limit,
            )
        if verdicts:
            log.warning(
                "released %d orphaned workflows of %s",
                len(verdicts),
                lost.executor_id,
                extra={"action": "orphans.released", "lost_executor_id": lost.executor_id},
            )
            self._on_release("orphan", verdicts, 0.0)
