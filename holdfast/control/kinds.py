"""The kinds of control operations."""

from __future__ import annotations

from typing import Any

from holdfast.control.families import begin_deletion, begin_going_on, require_results
from holdfast.control.operations import Kind, Operation
from holdfast.durable import names
from holdfast.errors import Conflict, UnknownWorkflow
from holdfast.postgres.database import Connection, Row, query
from holdfast.recovery import adoption
from holdfast.settings import Settings
from holdfast.statuses import RESUMABLE, TERMINAL

INTERNAL_QUEUE = "_dbos_internal_queue"
"""DBOS's queue for workflows that were started directly."""


_LOCKED = "other work holds the rows of the workflows that are left"


def kinds_of(settings: Settings) -> dict[str, Kind]:
    """Returns the kinds of operations by name."""
    own = settings.application_names
    return {"cancel": Cancel(own), "resume": Resume(own), "adopt": Adopt(), "delete": Delete()}


def target_of(workflow_id: str) -> str:
    """Returns the target of the operations on a workflow and those below it."""
    return f"workflow {workflow_id}"


class Cancel:
    """Cancels a workflow and all below it. Repeated, it cancels what the first time left."""

    def __init__(self, own: Any) -> None:
        self._own = sorted(own)

    def begin(self, connection: Connection, operation: Operation) -> int:
        """Cancels the workflow itself. Raises `Conflict` if it has ended otherwise."""
        workflow_id = operation.arguments["workflow_id"]
        status = _locked(connection, workflow_id)["status"]
        if status in ("SUCCESS", "ERROR"):
            raise Conflict(f"This workflow has ended with {status}; there is nothing to cancel.")
        return self.act(connection, operation, [workflow_id])

    def scan(self, connection: Connection, operation: Operation, limit: int) -> list[str]:
        """Returns unfinished and parked workflows, parents first."""
        return _ids(query(connection, "scan_cancel", limit=limit, **operation.arguments))

    def act(self, connection: Connection, operation: Operation, ids: list[str]) -> int:  # noqa: ARG002
        """Cancels workflows."""
        return len(
            query(
                connection,
                "cancel_work",
                workflow_ids=ids,
                named=list(names.QUEUE_OF),
                own=self._own,
            )
        )

    def waits_for(self, connection: Connection, operation: Operation) -> str:  # noqa: ARG002
        """Returns what it waits for."""
        return _LOCKED


class Resume:
    """Resumes a workflow, after the cancelled ones below it."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def begin(self, connection: Connection, operation: Operation) -> int:
        """Checks that it is cancelled or parked, and that this release knows it and those below."""
        row = _locked(connection, operation.arguments["workflow_id"])
        if row["status"] not in RESUMABLE:
            allowed = " or ".join(RESUMABLE)
            raise Conflict(f"This workflow is {row['status']}. Only those that are {allowed} can be resumed.")
        names.home_queue(self._own, row["application_name"], row["name"], None)
        begin_going_on(connection, operation.arguments["workflow_id"])
        return 0

    def scan(self, connection: Connection, operation: Operation, limit: int) -> list[str]:
        """Returns what is cancelled, children first."""
        if not operation.completed:
            require_results(connection, [operation.arguments["workflow_id"]], below=True)
            for row in query(connection, "names_to_resume", **operation.arguments):
                names.home_queue(self._own, row["application"], row["name"], None)
        return _ids(query(connection, "scan_resume", limit=limit, **_resuming(operation)))

    def act(self, connection: Connection, operation: Operation, ids: list[str]) -> int:
        """Puts workflows back into their queues."""
        rows = query(connection, "resumable", workflow_ids=ids)
        queues = [
            names.home_queue(self._own, row["application"], row["name"], row["queue_name"]) for row in rows
        ]
        resumed = query(
            connection,
            "resume_work",
            root=operation.arguments["workflow_id"],
            workflow_ids=_ids(rows),
            queues=[queue or INTERNAL_QUEUE for queue in queues],
            before_ms=operation.requested_ms,
        )
        # Now nothing deletes their children any more.
        require_results(connection, _ids(resumed))
        return len(resumed)

    def waits_for(self, connection: Connection, operation: Operation) -> str:
        """Returns what it waits for."""
        for row in query(connection, "still_running", **operation.arguments):
            return f"{row['executor_id']} still runs the cancelled execution of {row['workflow_id']}"
        return _LOCKED


def _resuming(operation: Operation) -> dict[str, Any]:
    return {**operation.arguments, "before_ms": operation.requested_ms}


class Adopt:
    """Moves stranded workflows to another version of their application."""

    def begin(self, connection: Connection, operation: Operation) -> int:  # noqa: ARG002
        """Checks that the versions differ. The first scan shows whether there is something to move."""
        version = operation.arguments["to_version"]
        if operation.arguments["from_version"] == version:
            raise Conflict(f"Work of version {version} is its own already: nothing was moved.")
        return 0

    def scan(self, connection: Connection, operation: Operation, limit: int) -> list[str]:
        """Returns stranded workflows."""
        given = operation.arguments
        return adoption.stranded_ids(
            connection, given["application"], given["from_version"], only=given.get("only"), limit=limit
        )

    def act(self, connection: Connection, operation: Operation, ids: list[str]) -> int:
        """Moves workflows, and records each move."""
        given = operation.arguments
        return len(
            adoption.move(connection, given["application"], given["from_version"], given["to_version"], ids)
        )

    def waits_for(self, connection: Connection, operation: Operation) -> str:  # noqa: ARG002
        """Returns what it waits for."""
        return _LOCKED


class Delete:
    """Deletes a workflow that has ended, and on request all below it, from the lowest level up."""

    def begin(self, connection: Connection, operation: Operation) -> int:
        """Checks that it has ended and that its parent needs its result no more."""
        workflow_id = operation.arguments["workflow_id"]
        _require_ended(workflow_id, _locked(connection, workflow_id)["status"])
        _require_free(connection, workflow_id)
        begin_deletion(connection, workflow_id, operation.operation_id)
        return 0

    def scan(self, connection: Connection, operation: Operation, limit: int) -> list[str]:
        """Returns all, children first. Raises `Conflict` if something there has not ended."""
        self.waits_for(connection, operation)
        return _ids(query(connection, "scan_delete", limit=limit, **_deleting(operation)))

    def act(self, connection: Connection, operation: Operation, ids: list[str]) -> int:
        """Deletes workflows."""
        given = operation.arguments
        root = given["workflow_id"] if given["children"] else None
        return len(query(connection, "delete_work", workflow_ids=ids, root=root))

    def waits_for(self, connection: Connection, operation: Operation) -> str:
        """Returns what it waits for. Raises `Conflict` if that is unfinished work."""
        _require_free(connection, operation.arguments["workflow_id"])
        for row in query(connection, "kept_from_deletion", **_deleting(operation)):
            _require_ended(row["workflow_id"], row["status"])
            return f"{row['executor_id']} still runs the cancelled execution of {row['workflow_id']}"
        for row in query(connection, "awaited_in_family", **_deleting(operation)):
            raise Conflict(
                f"{row['waiter']} is {row['status']} and will read the result of {row['child']}. "
                "Delete it when that one has ended, or cancel that one first."
            )
        return _LOCKED


def _deleting(operation: Operation) -> dict[str, Any]:
    return {name: operation.arguments[name] for name in ("workflow_id", "children")}


def _require_free(connection: Connection, workflow_id: str) -> None:
    for parent in query(connection, "parent_that_needs", workflow_id=workflow_id):
        raise Conflict(
            f"Its parent {parent['workflow_id']} is {parent['status']} and may still need its result. Delete "
            "it when the parent has ended with SUCCESS or ERROR, or delete the parent with its children."
        )


def _require_ended(workflow_id: str, status: str) -> None:
    if status not in TERMINAL:
        raise Conflict(f"{workflow_id} is {status}. Only what has ended can be deleted: cancel it first.")


def _locked(connection: Connection, workflow_id: str) -> Row:
    for row in query(connection, "lock_workflow", workflow_id=workflow_id):
        return row
    raise UnknownWorkflow


def _ids(rows: list[Row]) -> list[str]:
    return [row["workflow_id"] for row in rows]
