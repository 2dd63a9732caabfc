"""The interface between a process and the application that it runs."""

from __future__ import annotations

from typing import Protocol

from holdfast.settings import Role, Settings


class Application(Protocol):
    """The application of a role; ``services.composition`` contains both."""

    @property
    def role(self) -> Role:
        """The role: ``api`` or ``worker``."""

    @property
    def suspects_queue(self) -> str:
        """The queue on which suspected poison workflows run one at a time."""

    @property
    def trials_queue(self) -> str:
        """The queue on which suspects run alone in their process, before they are parked."""

    @property
    def leaf_queues(self) -> frozenset[str]:
        """Queues whose workflows may be moved to the queues of suspects and trials."""

    @property
    def uses_cpu_pool(self) -> bool:
        """Whether the process keeps child processes and the effect ledger."""

    @property
    def preload(self) -> tuple[str, ...]:
        """Modules that each child process for CPU work imports before its first task."""

    @property
    def settings_class(self) -> type[Settings]:
        """The class of the process's settings, which may add options to the platform's."""

    @property
    def foreign_workflows(self) -> set[str]:
        """Workflows that this process has imported, and that only processes of another role run."""

    def load(self, settings: Settings) -> None:
        """Imports user-defined modules. The process calls it first. Raises ``ModuleWrong``."""

    def prepare(self, settings: Settings) -> None:
        """Imports workflows and builds configured instances, after DBOS is created and before its launch."""

    @property
    def schedule_names(self) -> list[str]:
        """The schedules that the modules of this role declare."""

    def register(self, settings: Settings) -> None:
        """Registers queues and schedules, after the launch of DBOS."""

    def apply_definitions(self, settings: Settings) -> None:
        """Applies what `register` left to newer live code that has gone meanwhile."""

    def close(self) -> None:
        """Clears process-wide state at the end."""
