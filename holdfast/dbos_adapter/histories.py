"""Keeps the records that a replaying execution has read ahead, until they are used (`replay`)."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from holdfast.postgres.database import Row

GET_RESULT = "DBOS.getResult"

_FRESH_SECONDS = 0.5
"""How long a page is used before the workflow's status is read again: a cancel also ends a replay."""
_HISTORIES_LIMIT = 64
"""Maximum number of executions that read ahead concurrently. Further ones query each step separately."""
_IDLE_SECONDS = 60.0
"""Another execution may replace the history of one that has queried nothing for this time."""


@dataclass
class History:
    """One page of an execution's recorded steps. ``ahead``: whether more may follow."""

    owner: str | None
    ahead: bool = True
    rows: dict[int, Row] = field(default_factory=dict)
    results: dict[str | None, Row | None] = field(default_factory=dict)
    """Results of awaited workflows, by their ids. None if a workflow has more than one, or an error."""
    last: int = -1
    """The last step of the page."""
    read_at: float = field(default_factory=time.monotonic)
    reading: threading.Lock = field(default_factory=threading.Lock)

    def is_fresh(self) -> bool:
        """Returns whether the workflow's status was read a moment ago."""
        return time.monotonic() - self.read_at < _FRESH_SECONDS

    def note_not_cancelled(self) -> None:
        """Records that the workflow is not cancelled now."""
        self.read_at = time.monotonic()

    def fill(self, rows: list[Row], function_id: int) -> None:
        """Stores the page that was read from the step ``function_id`` on."""
        found = {row["function_id"]: row for row in rows if row["function_id"] is not None}
        self.results = {}
        for row in found.values():
            if row["function_name"] == GET_RESULT:
                child = row["child_workflow_id"]
                once = child not in self.results and row["output"] is not None
                self.results[child] = row if once else None
        self.rows, self.ahead = found, bool(found)
        self.last = max(found, default=function_id)
        self.note_not_cancelled()


class Histories:
    """Holds the histories of the executions that replay in this process, by workflow id."""

    def __init__(self) -> None:
        self._known: dict[str, History] = {}
        self._lock = threading.Lock()

    def get(self, workflow_id: str, owner: str | None) -> History | None:
        """Returns an execution's history if it replays; without an owner, that of the last one here."""
        known = self._known.get(workflow_id)
        if known is None or (owner is not None and known.owner not in (None, owner)):
            return None
        return known

    def begin(self, workflow_id: str, owner: str | None) -> None:
        """Registers that an execution replays, because a record was found."""
        if known := self.get(workflow_id, owner):
            known.ahead = True
            return
        with self._lock:
            if len(self._known) >= _HISTORIES_LIMIT:
                oldest = min(self._known, key=lambda each: self._known[each].read_at)
                if time.monotonic() - self._known[oldest].read_at < _IDLE_SECONDS:
                    return
                del self._known[oldest]
            self._known[workflow_id] = History(owner)

    def forget(self, workflow_id: str) -> None:
        """Drops a workflow's history: its execution is over, or another one begins."""
        with self._lock:
            self._known.pop(workflow_id, None)


def histories_of(db: Any) -> Histories:
    """Returns the histories of a system database."""
    found: Histories = vars(db).setdefault("histories", Histories())
    return found
