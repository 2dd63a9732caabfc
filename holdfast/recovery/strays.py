"""Strays: workflows that are recorded as running here but are not, because a start or an end was lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from holdfast.executor_settings import ExecutorSettings
from holdfast.identity import Identity
from holdfast.postgres.database import Connection, Row, query, transaction
from holdfast.recovery.blame import Verdict
from holdfast.recovery.takeover import release

log = logging.getLogger("holdfast.strays")

# A workflow released this often without a new step loses its end in every run.
_TIMES_TO_A_CRASH = 3

_Claim = tuple[str, str]


class Strays:
    """Releases the strays of this executor.

    ``running`` returns the ids of workflows that really run here. ``settles`` returns for a queue a function
    that returns whether the queue's thread has started all that it had claimed at the call (`Waker.settles`):
    a large claim can take longer than a lease.
    """

    def __init__(
        self,
        settings: ExecutorSettings,
        identity: Identity,
        running: Callable[[], Collection[str]],
        on_release: Callable[[str, list[Verdict], float], None],
        clock: Callable[[], float],
        *,
        settles: Callable[[str | None], Callable[[], bool]] = lambda _: lambda: True,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._running = running
        self._on_release = on_release
        self._clock = clock
        self._settles = settles
        # For each claim (workflow and token): whether the poll that may have made it is over.
        self._settled: dict[_Claim, Callable[[], bool]] = {}
        # Monotonic time since when each claim has been seen not running after that.
        self._since: dict[_Claim, float] = {}

    def find(self, connection: Connection) -> list[Row]:
        """Returns what is recorded as running here, for `release`. Raises ``psycopg2.Error``."""
        return query(
            connection,
            "own_work",
            executor_id=self._identity.executor_id,
            application=self._identity.application,
            version=self._identity.version,
        )

    def release(self, connection: Connection, rows: list[Row]) -> None:
        """Releases those of them that have not run for a whole lease of one claim. Raises ``psycopg2.Error``.

        If such a workflow starts later, DBOS rejects its writes. From the third release without a new step
        each one counts as a crash, so that a workflow is not run again forever.
        """
        now, identity = self._clock(), self._identity
        queues = {(row["workflow_id"], row["owner_xid"]): row["queue_name"] for row in rows}
        self._settled = {
            claim: self._settled.get(claim) or self._settles(queue) for claim, queue in queues.items()
        }
        # In this order: a claim that has just been dispatched is running by then.
        settled = [claim for claim, is_settled in self._settled.items() if is_settled()]
        running = set(self._running())
        self._since = {claim: self._since.get(claim, now) for claim in settled if claim[0] not in running}
        lost = sorted(
            {claim[0] for claim, since in self._since.items() if now - since >= self._settings.lease_seconds}
        )
        if not lost:
            return
        verdicts = []
        with transaction(connection):
            for row in query(connection, "count_strays", workflow_ids=lost):
                # Each separately: a stray was not running when another one lost its end, so it is not to
                # blame for it.
                verdicts += release(
                    connection,
                    identity,
                    identity,
                    kind="orphan",
                    reason="not running here",
                    crash_limit=self._settings.crash_limit,
                    died=row["strays"] >= _TIMES_TO_A_CRASH,
                    only={row["workflow_id"]},
                )
        log.warning(
            "released %d workflows that were not running", len(verdicts), extra={"action": "strays.released"}
        )
        self._on_release("stray", verdicts, 0.0)
