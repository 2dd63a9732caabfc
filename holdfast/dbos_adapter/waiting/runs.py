"""Executions of workflows that wait or run a step: what `waits` and `publisher` share, under one lock."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.dbos_adapter.waiting.wait import Wait

Key = tuple[str, str]
"""One execution: the workflow's id, and its claim's token."""

HIDDEN, CHANGING, SHOWN = range(3)
"""Whether a wait of the execution is told in the database; CHANGING while a statement is under way."""


@dataclass(eq=False)
class Run:
    """One execution of a workflow, while it waits or runs a step."""

    key: Key
    waits: list[Wait] = field(default_factory=list)
    steps: int = 0
    state: int = HIDDEN
    # Whether it may have a row although it is hidden: nobody knows what a statement without an answer did.
    doubtful: bool = False
    due: float = 0.0
    # Whether the execution has ended.
    over: bool = False

    def first(self) -> Wait:
        """The wait that is told: the one that ends first by itself, else the one that began first."""
        return min(self.waits, key=lambda wait: (wait.until is None, wait.until or wait.begun))


class Runs:
    """All of this process; ``changed`` is the lock."""

    def __init__(self, settle_seconds: float) -> None:
        self.settle_seconds = settle_seconds
        self.by_key: dict[Key, Run] = {}
        self.unshown: set[Run] = set()
        self.leaving: dict[Run, float] = {}
        """To be given back to their queues, from a monotonic time on."""
        self.obsolete: list[Run] = []
        self.changed = threading.Condition()
        self.stopped = False

    def settle(self, run: Run) -> None:
        """Where it stands, now that something changed. Under the lock."""
        if run.waits and run.steps == 0 and run.state == HIDDEN and not run.over:
            run.due = time.monotonic() + self.settle_seconds
            self.unshown.add(run)
            self.changed.notify_all()
            return
        self.unshown.discard(run)
        idle = not run.waits and run.steps == 0 and run.state == HIDDEN and not run.doubtful
        if idle and self.by_key.get(run.key) is run:
            del self.by_key[run.key]

    def interrupt(self, run: Run, error: BaseException) -> None:
        """Ends its waits with this error."""
        with self.changed:
            waits = list(run.waits)
        for wait in waits:
            wait.interrupt(error)
