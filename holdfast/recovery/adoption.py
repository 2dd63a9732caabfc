"""Adoption: moves stranded work to another version, at an operator's request or, if set, after a time.

The workflows keep their ids.
"""

from __future__ import annotations

import logging

from holdfast.executor_settings import ExecutorSettings
from holdfast.identity import Identity
from holdfast.postgres.database import Connection, Row, connect, query, transaction
from holdfast.postgres.session_thread import PollingThread

log = logging.getLogger("holdfast.adoption")

_LONGEST_PAUSE_SECONDS = 30.0
_PAUSES_PER_LIMIT = 4
_SCAN = 10_000
_BATCH = 500


def stranded_ids(
    connection: Connection,
    application: str,
    from_version: str,
    *,
    only: str | None = None,
    limit: int = _SCAN,
) -> list[str]:
    """Returns ids of workflows that no live executor can run (``only``: this one), at most ``limit``."""
    given = {"application": application, "from_version": from_version, "only": only, "limit": limit}
    return [row["workflow_id"] for row in query(connection, "scan_stranded", **given)]


def move(
    connection: Connection,
    application: str,
    from_version: str,
    to_version: str,
    workflow_ids: list[str],
    *,
    by: str = "operator",
) -> list[Row]:
    """Moves those of these workflows that are stranded, and records each move.

    Call it in a transaction. Raises ``psycopg2.Error``.
    """
    versions = {"from_version": from_version, "to_version": to_version}
    rows = query(connection, "adopt", application=application, workflow_ids=workflow_ids, **versions)
    for executor_id in {row["executor_id"] for row in rows}:
        executor_rows = [row for row in rows if row["executor_id"] == executor_id]
        query(
            connection,
            "record_handovers",
            workflow_ids=[row["workflow_id"] for row in executor_rows],
            workflow_names=[row["workflow_name"] for row in executor_rows],
            executor_id=executor_id,
            by=by,
            kind="adoption",
            reason=f"{from_version} to {to_version}",
            lost_at=None,
        )
    return rows


class AutomaticAdoption:
    """Adopts stranded work for the latest version once no executor of its own version has lived for a time.

    Only a process of the latest version adopts, so that a rollback's work waits for its code as well.
    """

    def __init__(self, settings: ExecutorSettings, identity: Identity, after_seconds: float) -> None:
        self._identity = identity
        self._after_seconds = after_seconds
        self.session = PollingThread(
            "adoption",
            connect=lambda: connect(settings, purpose=identity.purpose("adoption")),
            poll=self._adopt_stranded,
            log=log,
            action="adoption.failed",
            pause=self._pause_seconds,
        )

    def start(self) -> None:
        """Starts the checks."""
        self.session.start()

    def _pause_seconds(self) -> float:
        return min(_LONGEST_PAUSE_SECONDS, self._after_seconds / _PAUSES_PER_LIMIT)

    def _adopt_stranded(self, connection: Connection) -> None:
        me = self._identity
        for row in query(
            connection,
            "adoptable_versions",
            application=me.application,
            version=me.version,
            after_seconds=self._after_seconds,
        ):
            moved = self._adopt(connection, row["version"])
            log.warning(
                "adopted %d workflows of version %s, which no executor has run for %g s",
                moved,
                row["version"],
                self._after_seconds,
                extra={"action": "adoption.completed"},
            )

    def _adopt(self, connection: Connection, from_version: str) -> int:
        """Moves all workflows of a version, batch by batch, and returns their number."""
        me, moved = self._identity, 0
        while ids := stranded_ids(connection, me.application, from_version):
            before = moved
            while ids and not self.session.stopping.is_set():
                with transaction(connection):
                    rows = move(
                        connection, me.application, from_version, me.version, ids[:_BATCH], by=me.executor_id
                    )
                moved, ids = moved + len(rows), ids[_BATCH:]
            # Other work holds the rows that are left: the next check finds them.
            if moved == before or self.session.stopping.is_set():
                break
        return moved
