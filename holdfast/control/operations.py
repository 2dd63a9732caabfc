"""Control operations: a cancel, a resume or an adoption of any number of workflows, stored and carried out.

An operation acts batch by batch. A batch checks each workflow again under its lock, and counts what it did in
the operation's row, in one transaction that also holds that row's lock. Therefore

- an operation continues wherever its process ended: the next process scans for what is left;
- a batch that is repeated changes nothing;
- several processes may carry out the same operation: one of them at a time.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from holdfast.errors import Conflict, HoldfastError
from holdfast.postgres.database import Connection, Row, query, transaction


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
        store_progress(connection, operation, done=done)
        return operation.operation_id


def operation(connection: Connection, operation_id: str) -> Row | None:
    """Returns the row of an operation."""
    return next(iter(query(connection, "operation", operation_id=operation_id)), None)


def store_progress(
    connection: Connection,
    operation: Operation,
    *,
    done: int = 0,
    left: int = 0,
    pause_seconds: float = 0.0,
    note: str | None = None,
    status: str = "RUNNING",
) -> Row:
    """Stores what a batch did, within its transaction. Returns the operation's row."""
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


def store_end(connection: Connection, operation: Operation, reason: str) -> Row:
    """Ends an operation as failed. Returns its row."""
    return store_progress(connection, operation, status="ERROR", note=reason)
