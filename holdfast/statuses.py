"""The statuses a workflow can have, as DBOS stores them, and what can still happen in each."""

from __future__ import annotations

from typing import Final, Literal

Status = Literal[
    "DELAYED", "ENQUEUED", "PENDING", "SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"
]

PARKED: Final = "MAX_RECOVERY_ATTEMPTS_EXCEEDED"
"""It ended its executor too often, and waits for a person."""

UNFINISHED: Final[tuple[Status, ...]] = ("ENQUEUED", "PENDING", "DELAYED")
"""It runs, or will run by itself."""

ENDED: Final[tuple[Status, ...]] = ("SUCCESS", "ERROR", "CANCELLED")
"""It is over; there is nothing left to cancel, and it receives no message."""

TERMINAL: Final[tuple[Status, ...]] = (*ENDED, PARKED)
"""Nothing more happens unless a person resumes it."""

RESUMABLE: Final[tuple[Status, ...]] = ("CANCELLED", PARKED)
"""`POST /workflows/{id}/resume` puts it back into its queue."""
