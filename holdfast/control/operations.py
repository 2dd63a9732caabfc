"""Control operations: a cancel, a resume or an adoption of any number of workflows, stored and carried out.

An operation acts batch by batch. A batch checks each workflow again under its lock, and counts what it did in
the operation's row, in one transaction that also holds that row's lock. Therefore

- an operation continues wherever its process ended: the next process scans for what is left;
- a batch that is repeated changes nothing;
- several processes may carry out the same operation: one of them at a time.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import psycopg2

from holdfast.errors import Conflict, DatabaseBusy, HoldfastError, StatementTimeout
from holdfast.postgres.database import Connection, Row, query, transaction
from holdfast.postgres.outage import is_outage, unavailable

log = logging.getLogger("holdfast.control")

BATCH = 500
"""Workflows per transaction: about 50 ms of work, for which their rows are locked."""
SCAN = 100_000
"""Ids that one scan keeps in memory: about 10 MB."""
_PAUSE_SECONDS = 0.1
_BUSY_SECONDS = 1.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Operation:
    """An operation that is under way."""

    operation_id: str
    kind: str
    target: str
    arguments: dict[str, Any]
    requested_ms: int
    """When it was requested, in epoch milliseconds of the database's clock."""
    completed: int


@dataclass(frozen=True)
class Requested:
    """An operation to begin."""

    kind: str
    target: str
    arguments: dict[str, Any]
    by: str


@dataclass
class _Worklist:
    """What a scan returned and is still to be done, and how much was done since."""

    ids: list[str]
    done: int = 0


class Kind(Protocol):
    """What an operation does. Each method raises `Conflict` before it acts on what it cannot be done for."""

    def begin(self, connection: Connection, operation: Operation) -> int:
        """Checks that it can begin, under a lock. Returns on how many workflows it acted already."""

    def scan(self, connection: Connection, operation: Operation, limit: int) -> list[str]:
        """Returns ids of workflows to act on, at most ``limit``, in this order; none at the end.

        Reads what is true now, never what an earlier scan returned.
        """

    def act(self, connection: Connection, operation: Operation, ids: list[str]) -> int:
        """Acts on those of these workflows that still need it and are not locked. Returns their number."""

    def waits_for(self, connection: Connection, operation: Operation) -> str:
        """Returns what it waits for if nothing of what a scan returned could be done."""


def begin(connection: Connection, kinds: Mapping[str, Kind], requested: Requested) -> str:
    """Stores an operation and returns its id. Raises `Conflict`; then nothing is stored.

    Of two that begin at the same time on one target, the second waits for the first one's transaction. A
    cancel replaces a resume, and its arguments name it.
    """
    with transaction(connection):
        arguments = requested.arguments
        if requested.kind == "cancel":
            for row in query(connection, "replace_resume", target=requested.target):
                arguments = {**arguments, "replaced": row["operation_id"]}
        rows = query(
            connection,
            "begin_operation",
            operation_id=f"{requested.kind}-{uuid.uuid4().hex}",
            kind=requested.kind,
            target=requested.target,
            arguments=json.dumps(arguments),
            requested_by=requested.by,
        )
        if not rows:
            for row in query(connection, "operation_on", target=requested.target):
                raise Conflict(
                    f"Operation {row['operation_id']} ({row['kind']}) is under way here. "
                    f"GET /operations/{row['operation_id']} says how far it is."
                )
            raise Conflict("Another operation was under way here. Read the resource again, then decide.")
        operation = Operation(**rows[0], completed=0)
        done = kinds[requested.kind].begin(connection, operation)
        _advance(connection, operation, done=done)
        return operation.operation_id


class Worker:
    """Carries out operations, one batch per transaction. For one thread.

    ``scan_seconds`` is the time limit of a scan, None for the connection's limit of statements.
    """

    def __init__(
        self, kinds: Mapping[str, Kind], *, batch: int = BATCH, scan_seconds: float | None = None
    ) -> None:
        self._kinds = kinds
        self._batch_size = batch
        self._scan_seconds = scan_seconds
        # By operation. Only saves scans.
        self._worklists: dict[str, _Worklist] = {}
        self._sizes: dict[str, int] = {}

    def advance(self, connection: Connection, only: str | None = None) -> Row | None:
        """Carries out one batch of one operation (``only``: of this one) and returns the operation's row.

        Returns None if none is due, or another process is at it. Raises ``psycopg2.Error`` in an outage.
        """
        operation: Operation | None = None
        try:
            with transaction(connection):
                claimed = query(connection, "claim_operation", only=only)
                if not claimed:
                    return None
                operation = Operation(**claimed[0])
                row = self._act(connection, operation)
        except psycopg2.Error as error:
            if operation is None or connection.closed:
                raise
            row = self._refused(connection, operation, error)
        except HoldfastError as error:
            assert operation is not None
            row = _end(connection, operation, error.message)
        except Exception as error:
            log.exception("operation failed", extra={"action": "operation.failed"})
            if operation is None:
                raise
            row = _end(connection, operation, f"{type(error).__name__}: {error}")
        if row["ended_at"] is not None:
            self._worklists.pop(operation.operation_id, None)
            self._sizes.pop(operation.operation_id, None)
            _report(row)
        return row

    def _act(self, connection: Connection, operation: Operation) -> Row:
        kind = self._kinds.get(operation.kind)
        if kind is None:
            raise HoldfastError(f"This release does not know operations of the kind {operation.kind}.")
        begun = time.monotonic()
        # Removed until the batch is counted: after an error the next batch scans again.
        worklist = self._worklists.pop(operation.operation_id, None) or _Worklist(
            self._scan(connection, kind, operation)
        )
        if not worklist.ids:
            return _advance(connection, operation, status="SUCCESS")
        size = self._sizes.get(operation.operation_id, self._batch_size)
        done = kind.act(connection, operation, worklist.ids[:size])
        left = _Worklist(worklist.ids[size:], worklist.done + done)
        # A batch skips locked rows, and the next scan finds them. A pause, if nothing else is left to do.
        waits = not left.ids and not left.done
        row = _advance(
            connection,
            operation,
            done=done,
            left=len(worklist.ids) - done,
            pause_seconds=max(_PAUSE_SECONDS, 2 * (time.monotonic() - begun)) if waits else 0.0,
            note=kind.waits_for(connection, operation) if waits else None,
        )
        if left.ids:
            self._worklists[operation.operation_id] = left
        return row

    def _scan(self, connection: Connection, kind: Kind, operation: Operation) -> list[str]:
        if self._scan_seconds is None:
            return kind.scan(connection, operation, SCAN)
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", [f"{self._scan_seconds:g}s"])
            found = kind.scan(connection, operation, SCAN)
            cursor.execute("RESET statement_timeout")
        return found

    def _refused(self, connection: Connection, operation: Operation, error: psycopg2.Error) -> Row:
        """Makes a pause if the batch took too long, and smaller batches from then on; otherwise ends it."""
        if not is_outage(error):
            return _end(connection, operation, str(error).strip())
        why = unavailable(error)
        if not isinstance(why, StatementTimeout | DatabaseBusy):
            raise error
        size = self._sizes.get(operation.operation_id, self._batch_size)
        self._sizes[operation.operation_id] = max(1, size // 4)
        return _advance(connection, operation, pause_seconds=_BUSY_SECONDS, note=why.message)


def run(
    session: Callable[[], AbstractContextManager[Connection]],
    kinds: Mapping[str, Kind],
    requested: Requested,
    *,
    seconds: float,
) -> Row:
    """Begins an operation and carries it out for a time. Returns its row, which says whether it has ended.

    ``session`` lends a connection. It is returned during pauses. Raises `Conflict` if the operation could not
    begin, or failed before it acted on anything.
    """
    with session() as connection:
        operation_id = begin(connection, kinds, requested)
    deadline = time.monotonic() + seconds
    worker = Worker(kinds)
    while True:
        with session() as connection:
            row = worker.advance(connection, operation_id) or operation(connection, operation_id)
        if row is None or row["ended_at"] is not None or time.monotonic() >= deadline:
            break
        if row["note"]:
            time.sleep(_POLL_SECONDS)
    if row is None:
        raise Conflict("The record of this operation was deleted meanwhile.")
    if row["status"] == "ERROR" and not row["completed"]:
        raise Conflict(row["note"])
    return row


def operation(connection: Connection, operation_id: str) -> Row | None:
    """Returns the row of an operation."""
    return next(iter(query(connection, "operation", operation_id=operation_id)), None)


def _advance(
    connection: Connection,
    operation: Operation,
    *,
    done: int = 0,
    left: int = 0,
    pause_seconds: float = 0.0,
    note: str | None = None,
    status: str = "RUNNING",
) -> Row:
    rows = query(
        connection,
        "advance_operation",
        operation_id=operation.operation_id,
        done=done,
        left=left,
        pause_seconds=pause_seconds,
        note=note,
        status=status,
    )
    return rows[0] if rows else _gone(connection, operation)


def _gone(connection: Connection, operation_: Operation) -> Row:
    row = operation(connection, operation_.operation_id)
    if row is None:
        raise HoldfastError(f"The row of operation {operation_.operation_id} was deleted.")
    return row


def _end(connection: Connection, operation: Operation, reason: str) -> Row:
    return _advance(connection, operation, status="ERROR", note=reason)


def _report(row: Row) -> None:
    log.log(
        logging.INFO if row["status"] == "SUCCESS" else logging.ERROR,
        "%s of %s: %s, %d workflows%s",
        row["kind"],
        row["target"],
        row["status"],
        row["completed"],
        f" ({row['note']})" if row["note"] else "",
        extra={"action": "operation.ended"},
    )
