"""The records that a replaying execution has read ahead, kept until they are used (`replay`)."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from holdfast.postgres.database import Row

GET_RESULT = "DBOS.getResult"

_FRESH_SECONDS = 0.5
"""How long a page answers before the workflow's status is asked for again: a cancel ends a replay too."""
_MOST = 64
"""Executions that read ahead at the same time; more of them ask for each step by itself."""
_FORGOTTEN_SECONDS = 60.0
"""An execution that asked for nothing in this time may give its place to another."""


@dataclass
class History:
    """One page of one execution's history, and whether there may be more records behind it."""

    owner: str | None
    ahead: bool = True
    rows: dict[int, Row] = field(default_factory=dict)
    results: dict[str | None, Row | None] = field(default_factory=dict)
    """Of workflows waited for, by their id; None where one has more than one, or an error."""
    last: int = -1
    """The step that the page goes to."""
    read_at: float = field(default_factory=time.monotonic)
    reading: threading.Lock = field(default_factory=threading.Lock)

    def fresh(self) -> bool:
        """Whether the workflow was not cancelled a moment ago."""
        return time.monotonic() - self.read_at < _FRESH_SECONDS

    def asked(self) -> None:
        """It is not cancelled now."""
        self.read_at = time.monotonic()

    def fill(self, rows: list[Row], function_id: int) -> None:
        """The page that was read from a step on."""
        found = {row["function_id"]: row for row in rows if row["function_id"] is not None}
        self.results = {}
        for row in found.values():
            if row["function_name"] == GET_RESULT:
                child = row["child_workflow_id"]
                once = child not in self.results and row["output"] is not None
                self.results[child] = row if once else None
        self.rows, self.ahead = found, bool(found)
        self.last = max(found, default=function_id)
        self.asked()


class Histories:
    """Of the executions that replay in this process, by their workflows' ids."""

    def __init__(self) -> None:
        self._known: dict[str, History] = {}
        self._lock = threading.Lock()

    def get(self, workflow_id: str, owner: str | None) -> History | None:
        """The history of that execution, if it replays. Without an owner: of the last one here."""
        known = self._known.get(workflow_id)
        if known is None or (owner is not None and known.owner not in (None, owner)):
            return None
        return known

    def begin(self, workflow_id: str, owner: str | None) -> None:
        """A record was found, so the execution replays."""
        if known := self.get(workflow_id, owner):
            known.ahead = True
            return
        with self._lock:
            if len(self._known) >= _MOST:
                oldest = min(self._known, key=lambda each: self._known[each].read_at)
                if time.monotonic() - self._known[oldest].read_at < _FORGOTTEN_SECONDS:
                    return
                del self._known[oldest]
            self._known[workflow_id] = History(owner)

    def forget(self, workflow_id: str) -> None:
        """Its execution is over, or another one begins."""
        with self._lock:
            self._known.pop(workflow_id, None)


def histories_of(db: Any) -> Histories:
    """One for each system database."""
    found: Histories = vars(db).setdefault("histories", Histories())
    return found
