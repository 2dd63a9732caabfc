"""Carries out stored control operations, one batch per transaction."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import psycopg2

from holdfast.control.operations import (
    Kind,
    Operation,
    Requested,
    begin,
    operation,
    store_end,
    store_progress,
)
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


@dataclass
class _Progress:
    """What this process knows of an operation. If it is lost, a batch scans again."""

    size: int
    """Workflows of the next batch."""
    ids: list[str]
    """What a scan returned and is still to be done."""
    done: int = 0
    """How much was done since that scan."""


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
        self._progress: dict[str, _Progress] = {}
        """By operation."""

    def advance(self, connection: Connection, only: str | None = None) -> Row | None:
        """Carries out one batch of one operation (``only``: of this one) and returns the operation's row.

        Returns None if none is due, or another process is at it. Raises ``psycopg2.Error`` in an outage.
        """
        operation: Operation | None = None
        try:
            with transaction(connection):
                claimed = query(connection, "claim_operation", kinds=list(self._kinds), only=only)
                if not claimed:
                    for progress in self._progress.values():
                        progress.ids = []  # long, and another process may have ended these operations
                    return None
                operation = Operation(**claimed[0])
                row = self._act(connection, operation)
        except psycopg2.Error as error:
            if operation is None or connection.closed:
                raise
            row = self._refused(connection, operation, error)
        except HoldfastError as error:
            assert operation is not None
            row = store_end(connection, operation, error.message)
        except Exception as error:
            log.exception("operation failed", extra={"action": "operation.failed"})
            if operation is None:
                raise
            row = store_end(connection, operation, f"{type(error).__name__}: {error}")
        if row["ended_at"] is not None:
            self._progress.pop(operation.operation_id, None)
            _report(row)
        return row

    def _act(self, connection: Connection, operation: Operation) -> Row:
        kind = self._kinds[operation.kind]
        begun = time.monotonic()
        progress = self._progress_of(operation)
        if not progress.ids:
            progress.ids, progress.done = self._scan(connection, kind, operation), 0
        # Forgotten until the batch is counted: after an error the next batch scans again.
        ids, progress.ids = progress.ids, []
        if not ids:
            return store_progress(connection, operation, status="SUCCESS")
        done = kind.act(connection, operation, ids[: progress.size])
        left = ids[progress.size :]
        progress.done += done
        # A batch skips locked rows, and the next scan finds them. A pause, if nothing else is left to do.
        waits = not left and not progress.done
        row = store_progress(
            connection,
            operation,
            done=done,
            left=len(ids) - done,
            pause_seconds=max(_PAUSE_SECONDS, 2 * (time.monotonic() - begun)) if waits else 0.0,
            note=kind.waits_for(connection, operation) if waits else None,
        )
        progress.ids = left
        return row

    def _progress_of(self, operation: Operation) -> _Progress:
        return self._progress.setdefault(operation.operation_id, _Progress(self._batch_size, []))

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
            return store_end(connection, operation, str(error).strip())
        why = unavailable(error)
        if not isinstance(why, StatementTimeout | DatabaseBusy):
            raise error
        progress = self._progress_of(operation)
        progress.size = max(1, progress.size // 4)
        return store_progress(connection, operation, pause_seconds=_BUSY_SECONDS, note=why.message)


def batches(
    session: Callable[[], AbstractContextManager[Connection]], worker: Worker, operation_id: str
) -> Iterator[Row]:
    """Carries out an operation. Yields its row after each batch, until it has ended or is deleted.

    Makes a pause where the operation waits, or another process is at it.
    """
    while True:
        with session() as connection:
            advanced = worker.advance(connection, operation_id)
            row = advanced or operation(connection, operation_id)
        if row is None:
            return
        yield row
        if row["ended_at"] is not None:
            return
        if advanced is None or row["note"]:
            time.sleep(_PAUSE_SECONDS)


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
    for row in batches(session, Worker(kinds), operation_id):
        if row["ended_at"] is not None or time.monotonic() >= deadline:
            break
    else:
        raise Conflict("The record of this operation was deleted meanwhile.")
    if row["status"] == "ERROR" and not row["completed"]:
        raise Conflict(row["note"])
    return row


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
