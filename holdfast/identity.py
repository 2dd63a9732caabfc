"""What one incarnation of a process is called, and what it runs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Identity:
    """One incarnation of a process that can run workflows."""

    executor_id: str
    application: str
    version: str
    role: str
    hostname: str
    pid: int
    port: int
    slots: int
    suspects_queue: str
    trials_queue: str
    leaf_queues: Collection[str] = field(repr=False)

    def purpose(self, what: str) -> str:
        """``application_name`` of a connection: by it a peer ends the sessions of a dead executor."""
        return f"holdfast/{self.executor_id}/{what}"

    def registered(self) -> dict[str, Any]:
        """What the row of this executor says of it."""
        return {**asdict(self), "leaf_queues": sorted(self.leaf_queues)}
