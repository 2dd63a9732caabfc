"""The statuses of a workflow, as DBOS stores them, grouped by the transitions that are still possible."""

from __future__ import annotations

from typing import Final, Literal

Status = Literal[
    "DELAYED", "ENQUEUED", "PENDING", "SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"
]

PARKED: Final = "MAX_RECOVERY_ATTEMPTS_EXCEEDED"
"""The workflow crashed its executor too often, and waits for an operator."""

UNFINISHED: Final[tuple[Status, ...]] = ("ENQUEUED", "PENDING", "DELAYED")
"""The workflow runs, or will run without an operator's action."""

ENDED: Final[tuple[Status, ...]] = ("SUCCESS", "ERROR", "CANCELLED")
"""The workflow has ended: it cannot be cancelled, and receives no messages."""

TERMINAL: Final[tuple[Status, ...]] = (*ENDED, PARKED)
"""The workflow does not continue unless an operator resumes it."""

RESUMABLE: Final[tuple[Status, ...]] = ("CANCELLED", PARKED)
"""`POST /workflows/{id}/resume` returns the workflow to its queue."""
