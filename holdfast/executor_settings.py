"""The options that each executor has: one of the stack's processes, or a process of an attached application.

`holdfast.settings.Settings` reads them with pydantic-settings, `holdfast.attached.settings` without: it would
cost each attached process 8 MB and a tenth of a second. Both take defaults, limits and texts from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

SWEEP_JITTER = 0.2
"""Jitter on the sweep interval (±20 %), so that sweepers do not run in lockstep."""
_LEAST_LATENESS_SECONDS = 0.1


@dataclass(frozen=True)
class Option:
    """One option: its default, which also says its type, its meaning and its limits."""

    default: Any
    description: str
    gt: float | None = None
    ge: float | None = None
    le: float | None = None
    choices: tuple[str, ...] = ()


OPTIONS = {
    "bind_host": Option("127.0.0.1", "address the HTTP server listens on"),
    "heartbeat_seconds": Option(1.0, "time between two heartbeats", gt=0),
    "lease_seconds": Option(5.0, "silence after which an executor counts as dead", gt=0),
    "sweep_seconds": Option(0.25, "time between two sweeps of the peers", gt=0),
    "second_look_seconds": Option(0.15, "a lock must be missing in two checks this far apart", ge=0.15),
    "crash_limit": Option(5, "crashes after which a workflow is parked", ge=2),
    "clock_tolerance_seconds": Option(
        2.0, "difference from the database's clock that makes a process unready", gt=0
    ),
    "drain_seconds": Option(20.0, "how long a drain waits for running steps", ge=0),
    "stop_grace_seconds": Option(30.0, "time from SIGTERM to SIGKILL", gt=0),
    "database_timeout_seconds": Option(1.5, "longest wait of a request for PostgreSQL", gt=0),
    "chaos": Option(False, "allows POST /executors/{id}/crash"),
}


class ExecutorSettings:
    """`OPTIONS` as attributes, and what follows from them. Times are seconds."""

    if TYPE_CHECKING:  # a subclass has them: as fields of pydantic, or as plain attributes
        bind_host: str
        heartbeat_seconds: float
        lease_seconds: float
        sweep_seconds: float
        second_look_seconds: float
        crash_limit: int
        clock_tolerance_seconds: float
        drain_seconds: float
        stop_grace_seconds: float
        database_timeout_seconds: float
        chaos: bool
        database_wait_seconds: float

    @property
    def database_url(self) -> str:
        """libpq URL or connection string of the database."""
        raise NotImplementedError

    @property
    def application_names(self) -> list[str]:
        """The names of the applications whose work this process sees."""
        raise NotImplementedError

    def check_times(self) -> None:
        """Raises ``ValueError`` if two values contradict each other."""
        if self.lateness_seconds < _LEAST_LATENESS_SECONDS:
            least = 2 * (self.heartbeat_seconds + _LEAST_LATENESS_SECONDS) + self.longest_pause_seconds
            raise ValueError(
                f"HOLDFAST_LEASE_SECONDS ({self.lease_seconds:g}) must be at least {least:g}: twice "
                f"HOLDFAST_HEARTBEAT_SECONDS ({self.heartbeat_seconds:g}), the longest pause between two "
                f"checks ({self.longest_pause_seconds:g}: HOLDFAST_SWEEP_SECONDS and a fifth, or "
                f"HOLDFAST_SECOND_LOOK_SECONDS) and {2 * _LEAST_LATENESS_SECONDS:g} s, or an executor cannot "
                "distinguish the death of a peer from an outage of its own"
            )
        if self.drain_seconds + 5 > self.stop_grace_seconds:
            raise ValueError(
                f"HOLDFAST_STOP_GRACE_SECONDS ({self.stop_grace_seconds:g}) must exceed "
                f"HOLDFAST_DRAIN_SECONDS ({self.drain_seconds:g}) by at least 5 s, or a drain ends in SIGKILL"
            )

    @property
    def longest_pause_seconds(self) -> float:
        """Longest pause between two polls of the peers."""
        return max((1 + SWEEP_JITTER) * self.sweep_seconds, self.second_look_seconds)

    @property
    def lateness_seconds(self) -> float:
        """Tolerated lateness of this process's heartbeats and polls: half of what the lease leaves."""
        return (self.lease_seconds - 2 * self.heartbeat_seconds - self.longest_pause_seconds) / 2

    @property
    def blocked_seconds(self) -> float:
        """Silence after which an interpreter counts as blocked: reached before its heartbeat can be late."""
        return self.lease_seconds - 2 * self.heartbeat_seconds
