"""Executions of workflows that wait or run a step: `waits` and `publisher` share them under one lock."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.dbos_adapter.waiting.wait import Wait

Key = tuple[str, str]
"""Identifies one execution: the workflow's id and the token of its claim."""

HIDDEN, CHANGING, SHOWN = range(3)
"""Whether a wait of the execution is published in the database. CHANGING while a statement is under way."""


@dataclass(eq=False)
class Run:
    """One execution of a workflow, while it waits or runs a step."""

    key: Key
    waits: list[Wait] = field(default_factory=list)
    steps: int = 0
    state: int = HIDDEN
    # Whether it may have a row although it is hidden: a statement without an answer may have taken effect.
    doubtful: bool = False
    due: float = 0.0
    # Whether the execution has ended.
    over: bool = False

    def first(self) -> Wait:
        """Returns the wait to publish: the one that times out first, else the one that began first."""
        return min(self.waits, key=lambda wait: (wait.until is None, wait.until or wait.begun))


class Runs:
    """Holds the executions of this process that wait or run a step. ``changed`` is the lock."""

    def __init__(self, settle_seconds: float) -> None:
        self.settle_seconds = settle_seconds
        self.by_key: dict[Key, Run] = {}
        self.unshown: set[Run] = set()
        self.leaving: dict[Run, float] = {}
        """Executions to release to their queues, each from a monotonic time on."""
        self.obsolete: list[Run] = []
        self.changed = threading.Condition()
        self.stopped = False

    def settle(self, run: Run) -> None:
        """Updates the sets that hold this execution after a change. Call under the lock."""
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
        """Ends all waits of an execution with this error."""
        with self.changed:
            waits = list(run.waits)
        for wait in waits:
            wait.interrupt(error)
