"""What every contender offers to the cases, Holdfast and its peers alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.compare.processes import NotMeasured
from services.worker.fibonacci.rule import doubling

TAKEOVER_N = 34
"""The job in which a worker is killed: more than a second, within Holdfast's default limit."""


@dataclass(frozen=True)
class Picked:
    """One job at idle, in seconds since 1970 by the one clock of this host."""

    sent: float
    """Just before the client sent it."""
    accepted: float
    """When the client's call returned: the job is stored."""
    started: float
    """When the job's body began."""


class Contender(ABC):
    """One way to run jobs on two worker processes. ``start`` it, and ``stop`` it whatever happened."""

    name = ""
    title = ""
    note = ""
    """What was set, in a sentence for the report."""
    slow_takeover = False
    """Whether it takes a minute or never comes, so that one measurement per run is enough."""
    takeovers = 1
    """Kills a round."""

    @abstractmethod
    def start(self, home: Path) -> None:
        """Starts all of it and returns when both workers take jobs. Raises `NotMeasured`."""

    @abstractmethod
    def stop(self) -> None:
        """Ends all of it. Idempotent."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Versions and settings, as asked from what runs."""

    @abstractmethod
    def in_turn(self, n: int, count: int, bound_seconds: float) -> float:
        """Seconds for ``count`` jobs, each started after the previous result. Results are checked."""

    @abstractmethod
    def at_once(self, n: int, count: int, bound_seconds: float) -> float:
        """Seconds for ``count`` jobs accepted together, until the last result. Results are checked."""

    @abstractmethod
    def pickup(self, pauses: list[float], bound_seconds: float) -> list[Picked]:
        """One job after each pause, each waited for."""

    @abstractmethod
    def takeover(self, delay_seconds: float, bound_seconds: float) -> float | None:
        """Seconds from SIGKILL of the worker in the middle of a job until its body runs on another.

        The kill comes ``delay_seconds`` after the body's begin; None: not within the bound. Killed
        workers are there again at the end, unless it was None.
        """

    @contextmanager
    def running(self, home: Path) -> Iterator[None]:
        """Started inside, ended whatever happens."""
        try:
            self.start(home)
            yield
        finally:
            self.stop()


def check(n: int, count: int, values: Iterable[int]) -> None:
    """Raises `NotMeasured` unless there are ``count`` results, each the oracle's."""
    found = list(values)
    if len(found) != count or set(found) != {doubling(n)}:
        wrong = next((value for value in found if value != doubling(n)), None)
        raise NotMeasured(f"results do not hold: {len(found)} of {count} for F({n}), first wrong one {wrong}")
