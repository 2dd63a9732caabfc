"""The identity of one incarnation of a process: its names and queues."""

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
        """Returns a connection's ``application_name``, by which peers find a dead executor's sessions."""
        return f"holdfast/{self.executor_id}/{what}"

    def registered(self) -> dict[str, Any]:
        """Returns the values for this executor's row in the database."""
        return {**asdict(self), "leaf_queues": sorted(self.leaf_queues)}
