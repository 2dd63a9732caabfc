"""Retention: deletes workflows that ended long ago in small batches, so that the queues are not disturbed.

Workflows are deleted only in whole families: a workflow with all its descendants, parents first, once all of
them have ended and are old. A purge may be repeated, stopped or killed at any point: a later one finds the
rest. docs/operate/operations.md describes what is kept, and why.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, NotRequired

import psycopg2
from typing_extensions import TypedDict

from holdfast.postgres.database import Connection, OpsPool, Row, connect, query, transaction
from holdfast.postgres.outage import is_outage
from holdfast.postgres.outage_log import OutageLog
from holdfast.retention import tally
from holdfast.settings import Settings

log = logging.getLogger("holdfast.retention")

BATCH = 500
"""Maximum number of rows that one transaction deletes and one scan reads."""
SLICE_SECONDS = 5.0
"""A step ends after about this time and records its progress. A drain waits only for the current batch."""

# A later purge finds the rest of a larger family, as workflows without a parent.
_FAMILY_LIMIT = 20_000
# A purge pauses for twice the time it was busy, so the database is free of it two thirds of the time.
_REST = 2.0
_MIN_REST_SECONDS = 0.02
_STATEMENT_SECONDS = 30.0
_RETRY_SECONDS = 0.5

TIDY = ("purge_pulses", "purge_keys", "purge_handovers", "purge_executors", "purge_operations")
"""Statements that clean up our own tables, in this order, after the workflows."""


class Cutoffs(TypedDict):
    """Rows up to these times are deleted, in epoch milliseconds. Parked work is kept if its time is None."""

    cutoff_ms: int
    parked_cutoff_ms: int | None


class Done(TypedDict):
    """The result of one slice: deleted ``workflows`` by name and status, and deleted ``rows`` of all kinds.

    ``after`` is the position at which the next slice continues, ``more`` whether one is needed. ``stopped``
    means that the slice ended early because of a stop, or because another process purges. ``refused`` means
    that workflows stay that were to be deleted. Steps of older releases have no such field.
    """

    workflows: tally.Tally
    rows: int
    after: Any
    more: bool
    stopped: bool
    refused: NotRequired[bool]


class _Purge:
    """The one connection that deletes and holds the purge lock, with the start of its current busy time."""

    def __init__(self, connection: Connection | None = None) -> None:
        self.connection = connection
        self._busy_since = time.monotonic()

    def rest(self) -> None:
        """Pauses in proportion to the time since the last pause, to leave the database to other work."""
        time.sleep(max(_MIN_REST_SECONDS, _REST * (time.monotonic() - self._busy_since)))
        self._busy_since = time.monotonic()


class Purger:
    """Deletes one slice at a time: reads through ``ops``, and deletes over a connection that lasts one slice.

    ``stopping`` ends a slice early. While PostgreSQL is away a slice waits for it, as DBOS's own calls do.
    ``patient`` means to wait for the purge lock while another process holds it, instead of stopping. A
    ``dry_run`` reads and counts in the same way, but changes nothing.
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
        self._outage_log = OutageLog(log, "a purge cannot continue", action="retention.waiting")

    def workflows(self, cutoffs: Cutoffs, after: list[Any] | None) -> Done:
        """Deletes one slice of the workflows after ``after`` (ended_ms, workflow_id; None: from the oldest).

        Raises ``psycopg2.Error`` for errors that are not an outage.
        """
        done = Done(workflows={}, rows=0, after=after or [-1, ""], more=True, stopped=False, refused=False)
        self._slice(done, lambda purge: self._page(purge, cutoffs, done))
        return done

    def tidy(self, statement: str, cutoffs: Cutoffs, after: str | None) -> Done:
        """Deletes one slice of rows with a statement of ``TIDY``. Raises the same errors as ``workflows``."""
        done = Done(workflows={}, rows=0, after=after, more=True, stopped=False)

        def page(purge: _Purge) -> None:
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
            purge.rest()

        self._slice(done, page)
        return done

    def _slice(self, done: Done, page: Callable[[_Purge], None]) -> None:
        """Runs `page` repeatedly until nothing is left, the slice's time is over, or a stop begins."""
        deadline = time.monotonic() + self._slice_seconds
        while not self._stopping():
            try:
                with self._locked() as purge:
                    self._outage_log.record_success()
                    if purge is None:
                        break
                    while done["more"] and not self._stopping():
                        page(purge)
                        if time.monotonic() >= deadline:
                            return
                    if not done["more"]:
                        return
            except psycopg2.Error as error:
                # `done` contains what was deleted. The interrupted page is read again.
                if not is_outage(error):
                    raise
                self._outage_log.record_failure(error)
                time.sleep(_RETRY_SECONDS)
        done["stopped"] = True

    @contextmanager
    def _locked(self) -> Iterator[_Purge | None]:
        """Holds the purge lock. Yields None if another process has it and this one does not wait for it."""
        if self._dry_run:
            yield _Purge()
            return
        connection = connect(
            self._settings, purpose=self._purpose, statement_timeout_seconds=_STATEMENT_SECONDS
        )
        try:
            yield _Purge(connection) if self._acquire_lock(connection) else None
        finally:
            connection.close()  # which releases the lock

    def _acquire_lock(self, connection: Connection) -> bool:
        """Acquires the lock in the connection's session, which holds it from then on."""
        while not query(connection, "purge_lock")[0]["held"]:
            if not self._patient or self._stopping():
                return False
            time.sleep(_RETRY_SECONDS)
        return True

    def _page(self, purge: _Purge, cutoffs: Cutoffs, done: Done) -> None:
        after_ms, after_id = done["after"]
        rows = self._ops.run("purge_page", **cutoffs, after_ms=after_ms, after_id=after_id, limit=BATCH)
        doomed: list[_Doomed] = []
        for row in rows:
            if row["first"] and row["old"]:
                family = self._family(cutoffs, row) if row["has_children"] else [row]
                doomed += [_Doomed(row["workflow_id"], member) for member in family]
            if len(doomed) >= BATCH:
                self._delete(purge, doomed, done)
                doomed = []
                done["after"] = [row["ended_ms"], row["workflow_id"]]
                if self._stopping():
                    return
        self._delete(purge, doomed, done)
        purge.rest()
        if rows:
            done["after"] = [rows[-1]["ended_ms"], rows[-1]["workflow_id"]]
        done["more"] = len(rows) == BATCH

    def _family(self, cutoffs: Cutoffs, root: Row) -> list[Row]:
        return self._ops.run("purge_family", workflow_id=root["workflow_id"], limit=_FAMILY_LIMIT, **cutoffs)

    def _delete(self, purge: _Purge, doomed: list[_Doomed], done: Done) -> None:
        """Deletes with one transaction per batch. ``doomed`` holds family after family, parents first."""
        kept: set[str] = set()
        for start in range(0, len(doomed), BATCH):
            batch = [each for each in doomed[start : start + BATCH] if each.root not in kept]
            gone: set[str] = set()
            while batch and purge.connection is not None:
                gone, refused = _delete_all(purge.connection, [each.row["workflow_id"] for each in batch])
                if not refused:
                    break
                # The rest of its family may be the children of one that was resumed since the scan.
                kept |= {each.root for each in batch if each.row["workflow_id"] in refused}
                batch = [each for each in batch if each.root not in kept]
            rows = [each.row for each in batch if each.row["workflow_id"] not in gone]
            for row in rows:
                tally.add(done["workflows"], {row["name"]: {row["status"]: 1}})
            done["rows"] += len(rows)
            purge.rest()
        if kept:
            left = sum(each.root in kept for each in doomed)
            done["refused"] = True
            log.info(
                "%d workflows were not deleted: some of them are in use",
                left,
                extra={"action": "retention.refused"},
            )


class _Doomed(NamedTuple):
    """A workflow that is to be deleted with the family of the workflow ``root``."""

    root: str
    row: Row


class _RefusedError(Exception):
    """Some workflows of a batch cannot be deleted now, or not any more."""


def _delete_all(connection: Connection, ids: list[str]) -> tuple[set[str], set[str]]:
    """Deletes all workflows of a batch, or none. Returns those already gone, and those that refused."""
    missing: set[str] = set()
    refused: set[str] = set()
    with suppress(_RefusedError), transaction(connection):
        deleted = {row["workflow_id"] for row in query(connection, "purge_work", workflow_ids=ids)}
        missing = set(ids) - deleted
        if missing:
            refused = {row["workflow_id"] for row in query(connection, "purge_left", workflow_ids=[*missing])}
        if refused:
            raise _RefusedError
    return missing - refused, refused
