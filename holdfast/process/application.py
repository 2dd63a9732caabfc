"""What a process asks of the application that it runs."""

from __future__ import annotations

from typing import Protocol

from holdfast.settings import Role, Settings


class Application(Protocol):
    """What a role runs; ``services.composition`` has the two."""

    @property
    def role(self) -> Role:
        """``api`` or ``worker``."""

    @property
    def suspects_queue(self) -> str:
        """Where suspects of poison run one at a time."""

    @property
    def trials_queue(self) -> str:
        """Where they run alone in their process, before they are parked."""

    @property
    def leaf_queues(self) -> frozenset[str]:
        """Queues whose workflows may be moved there."""

    @property
    def uses_cpu_pool(self) -> bool:
        """Whether the process keeps child processes and the effect ledger."""

    @property
    def preload(self) -> tuple[str, ...]:
        """Modules that each of these child processes imports before its first task."""

    def load(self, settings: Settings) -> None:
        """Imports modules of your own, before anything else is asked. Raises ``ModuleWrong``."""

    def prepare(self, settings: Settings) -> None:
        """Imports workflows and builds configured instances: after DBOS exists, before its launch."""

    def register(self, settings: Settings) -> None:
        """Registers queues and schedules, after the launch."""

    def close(self) -> None:
        """Clears process-wide state at the end."""
