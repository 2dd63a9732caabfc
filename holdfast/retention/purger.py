"""Retention: deletes what ended long ago, a little at a time, so that the queues notice nothing.

Workflows go by DBOS's public call, whole families only: a workflow together with everything it started,
parents first, once all of them have ended and are old. Everything here may be repeated, stopped and killed
at any point: what is left is found again. docs/operate/operations.md says what is kept, and why.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypedDict

import psycopg2
import sqlalchemy as sa
from dbos import DBOSClient

from holdfast.dbos_adapter.schema import sqlalchemy_url
from holdfast.dbos_adapter.serializer import json_serializer
from holdfast.postgres.budget import PURGE
from holdfast.postgres.database import CONNECT_OPTIONS, OpsPool, Row, Trouble, sql
from holdfast.postgres.outage import is_outage
from holdfast.retention import tally
from holdfast.settings import Settings

log = logging.getLogger("holdfast.retention")

BATCH = 500
"""Rows that one transaction deletes, and that one look reads."""
SLICE_SECONDS = 5.0
"""A step ends after about that time, and its progress is recorded; a drain waits only for its batch."""

# Of more than that many, the rest is found by a later purge, as workflows without a parent.
_FAMILY_LIMIT = 20_000
# It rests for twice the time that it was busy: two thirds of the time are the others'.
_REST = 2.0
_LEAST_REST_SECONDS = 0.02
_STATEMENT_SECONDS = 30.0
_RETRY_SECONDS = 0.5
_RESTRICT_VIOLATION = "23001"

TIDY = ("purge_pulses", "purge_keys", "purge_handovers", "purge_executors")
"""Statements that clean our own tables up, in this order, once the workflows are gone."""


class Cutoffs(TypedDict):
    """Until when rows go, in epoch milliseconds; parked work only where a time for it is set."""

    cutoff_ms: int
    parked_cutoff_ms: int | None


class Done(TypedDict):
    """What one slice did: ``workflows`` by name and status, ``rows`` of all kinds.

    ``after``: where the next slice goes on; ``more``: whether one is needed; ``stopped``: whether it left
    early because it was told to, or because somebody else purges.
    """

    workflows: tally.Tally
    rows: int
    after: Any
    more: bool
    stopped: bool


class _Turn:
    """The one connection that deletes, which holds the turn, and since when it has been busy."""

    def __init__(self, client: DBOSClient | None = None) -> None:
        self.client = client
        self._busy_since = time.monotonic()

    def rest(self) -> None:
        """Leaves the database to the others, in proportion to what was done since the last rest."""
        time.sleep(max(_LEAST_REST_SECONDS, _REST * (time.monotonic() - self._busy_since)))
        self._busy_since = time.monotonic()


class Purger:
    """Deletes a slice at a time: reads through ``ops``, deletes over a connection as long-lived as the slice.

    ``stopping`` ends a slice early. While PostgreSQL is away a slice waits for it, as DBOS's own calls do.
    ``patient``: whether to wait for the turn while somebody else purges, or to leave. A ``dry_run`` reads
    and counts the same, and changes nothing.
    """

    def __init__(
        self,
        settings: Settings,
        ops: OpsPool,
        *,
        purpose: str,
        stopping: Callable[[], bool],
        patient: bool = True,
        dry_run: bool = False,
        slice_seconds: float = SLICE_SECONDS,
    ) -> None:
        self._settings = settings
        self._ops = ops
        self._purpose = purpose
        self._stopping = stopping
        self._patient = patient
        self._dry_run = dry_run
        self._slice_seconds = slice_seconds
        self._trouble = Trouble(log, "a purge cannot go on", action="retention.waiting")

    def workflows(self, cutoffs: Cutoffs, after: list[Any] | None) -> Done:
        """One slice of the workflows, from ``after`` on (ended_ms, workflow_id; None: from the oldest).

        Raises ``psycopg2.Error`` or ``sqlalchemy.exc.DBAPIError`` for what waiting does not heal.
        """
        done = Done(workflows={}, rows=0, after=after or [-1, ""], more=True, stopped=False)
        self._slice(done, lambda turn: self._page(turn, cutoffs, done))
        return done

    def tidy(self, statement: str, cutoffs: Cutoffs, after: str | None) -> Done:
        """One slice of the rows that one statement of ``TIDY`` looks after. Raises as ``workflows``."""
        done = Done(workflows={}, rows=0, after=after, more=True, stopped=False)

        def page(turn: _Turn) -> None:
            row = self._ops.run(
                statement,
                cutoff_ms=cutoffs["cutoff_ms"],
                after=done["after"],
                limit=BATCH,
                dry_run=self._dry_run,
            )[0]
            done["rows"] += row["rows"]
            done["after"] = row["after"] or done["after"]
            done["more"] = row["more"]
            turn.rest()

        self._slice(done, page)
        return done

    def _slice(self, done: Done, page: Callable[[_Turn], None]) -> None:
        """Page after page until nothing is left, the slice is over, or a stop begins."""
        deadline = time.monotonic() + self._slice_seconds
        while not self._stopping():
            try:
                with self._turn() as turn:
                    self._trouble.over()
                    if turn is None:
                        break
                    while done["more"] and not self._stopping():
                        page(turn)
                        if time.monotonic() >= deadline:
                            return
                    if not done["more"]:
                        return
            except (psycopg2.Error, sa.exc.DBAPIError) as error:
                # What is deleted is in `done`; the page that broke off is looked at again.
                if not is_outage(error):
                    raise
                self._trouble.met(getattr(error, "orig", None) or error)
                time.sleep(_RETRY_SECONDS)
        done["stopped"] = True

    @contextmanager
    def _turn(self) -> Iterator[_Turn | None]:
        """The turn to purge; None when somebody else has it and nobody waits for it."""
        if self._dry_run:
            yield _Turn()
            return
        milliseconds = int(_STATEMENT_SECONDS * 1000)
        options = f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds}"
        engine = sa.create_engine(
            sqlalchemy_url(self._settings.database_url),
            pool_size=PURGE,
            max_overflow=0,
            hide_parameters=True,
            connect_args={"application_name": self._purpose[:63], "options": options, **CONNECT_OPTIONS},
        )
        # Not DBOS.delete_workflows: that logs every id.
        client = DBOSClient(
            system_database_engine=engine,
            serializer=json_serializer(),
            lazy=True,
            retry_connection_errors=False,
        )
        try:
            yield _Turn(client) if self._take_turn(engine) else None
        finally:
            client.destroy()
            engine.dispose()  # which gives the turn back

    def _take_turn(self, engine: sa.Engine) -> bool:
        """Locks in the session of the pool's only connection, which keeps it."""
        while True:
            with engine.connect() as connection:
                if connection.execute(sa.text(sql("purge_lock"))).scalar():
                    return True
            if not self._patient or self._stopping():
                return False
            time.sleep(_RETRY_SECONDS)

    def _page(self, turn: _Turn, cutoffs: Cutoffs, done: Done) -> None:
        after_ms, after_id = done["after"]
        rows = self._ops.run("purge_page", **cutoffs, after_ms=after_ms, after_id=after_id, limit=BATCH)
        doomed: list[Row] = []
        for row in rows:
            if row["first"] and row["old"]:
                doomed += self._family(cutoffs, row) if row["has_children"] else [row]
            if len(doomed) >= BATCH:
                self._delete(turn, doomed, done)
                doomed = []
                done["after"] = [row["ended_ms"], row["workflow_id"]]
                if self._stopping():
                    return
        self._delete(turn, doomed, done)
        turn.rest()
        if rows:
            done["after"] = [rows[-1]["ended_ms"], rows[-1]["workflow_id"]]
        done["more"] = len(rows) == BATCH

    def _family(self, cutoffs: Cutoffs, root: Row) -> list[Row]:
        return self._ops.run("purge_family", workflow_id=root["workflow_id"], limit=_FAMILY_LIMIT, **cutoffs)

    def _delete(self, turn: _Turn, doomed: list[Row], done: Done) -> None:
        """One transaction a batch. ``doomed`` holds families one after the other, parents first."""
        for start in range(0, len(doomed), BATCH):
            batch = doomed[start : start + BATCH]
            if turn.client is not None:
                try:
                    turn.client.delete_workflows([row["workflow_id"] for row in batch])
                except sa.exc.IntegrityError as error:
                    if getattr(error.orig, "sqlstate", None) != _RESTRICT_VIOLATION:
                        raise
                    # Resumed since the look. The rest may be its children: another purge looks again.
                    told = str(error.orig).partition("\n")[0]
                    log.info("left alone: %s", told, extra={"action": "retention.refused"})
                    return
            for row in batch:
                tally.add(done["workflows"], {row["name"]: {row["status"]: 1}})
            done["rows"] += len(batch)
            turn.rest()
