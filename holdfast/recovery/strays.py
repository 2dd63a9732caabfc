"""Workflows that are recorded as running here and do not: a claim whose start or whose end was lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from holdfast.identity import Identity
from holdfast.postgres.database import Connection, query, transaction
from holdfast.recovery.blame import Verdict
from holdfast.recovery.takeover import release
from holdfast.settings import Settings

log = logging.getLogger("holdfast.strays")

# What was released so often without a new step loses its end whenever it runs.
_TIMES_TO_A_CRASH = 3


class Strays:
    """Releases the strays of this executor. ``running`` returns the ids of what does run here."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        running: Callable[[], Collection[str]],
        on_release: Callable[[str, list[Verdict], float], None],
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._running = running
        self._on_release = on_release
        self._clock = clock
        # Claims by workflow and token, and since when each has been seen not to run.
        self._since: dict[tuple[str, str], float] = {}

    def release(self, connection: Connection) -> None:
        """Gives back what has not run for a whole lease of the same claim. Raises ``psycopg2.Error``.

        If it does start after all, DBOS refuses its writes. From the third time on without a new step it
        counts as a crash: nothing may run again for ever.
        """
        now, me = self._clock(), self._identity
        rows = query(
            connection,
            "own_work",
            executor_id=me.executor_id,
            application=me.application,
            version=me.version,
        )
        running = set(self._running())
        seen = [(row["workflow_id"], row["owner_xid"]) for row in rows if row["workflow_id"] not in running]
        self._since = {claim: self._since.get(claim, now) for claim in seen}
        lost = sorted(
            {claim[0] for claim, since in self._since.items() if now - since >= self._settings.lease_seconds}
        )
        if not lost:
            return
        verdicts = []
        with transaction(connection):
            for row in query(connection, "count_strays", workflow_ids=lost):
                # One by one: none of them was there when another one lost its end.
                verdicts += release(
                    connection,
                    me,
                    me,
                    kind="orphan",
                    reason="not running here",
                    crash_limit=self._settings.crash_limit,
                    died=row["strays"] >= _TIMES_TO_A_CRASH,
                    only={row["workflow_id"]},
                )
        log.warning(
            "released %d workflows that did not run", len(verdicts), extra={"action": "strays.released"}
        )
        self._on_release("stray", verdicts, 0.0)
