"""Attempts of workflows as the page draws them, and how many there are beyond what it draws.

No I/O. Times are seconds since 1970 on the database's clock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from holdfast.console.labels import label

Item = dict[str, Any]
Row = dict[str, Any]

BUCKET_SECONDS = 15


class Collection:
    """Items by key, which remembers what was added, changed or dropped since the last `take`."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.items: dict[Any, Item] = {}
        self._changed: dict[Any, Item] = {}
        self._gone: dict[Any, None] = {}

    def put(self, item: Item) -> None:
        """Add or replace; an equal item is no change."""
        key = item[self.key]
        if self.items.get(key) != item:
            self.items[key] = self._changed[key] = item
            self._gone.pop(key, None)

    def update(self, key: Any, **fields: Any) -> None:
        """Change fields of a known item."""
        self.put({**self.items[key], **fields})

    def drop(self, key: Any) -> None:
        """Remove; an unknown key is no change."""
        if self.items.pop(key, None) is not None:
            self._changed.pop(key, None)
            self._gone[key] = None

    def keep(self, items: Iterable[Item]) -> None:
        """These and no others."""
        wanted = {item[self.key]: item for item in items}
        for key in self.items.keys() - wanted.keys():
            self.drop(key)
        for item in wanted.values():
            self.put(item)

    def take(self) -> tuple[list[Item], list[Any]]:
        """What changed and what is gone since the last call."""
        taken = list(self._changed.values()), list(self._gone)
        self._changed, self._gone = {}, {}
        return taken


class Bars(Collection):
    """Attempts by ``workflow@start in ms``; those of one workflow follow each other by their start."""

    def __init__(self) -> None:
        super().__init__("key")
        self._of: defaultdict[str, list[str]] = defaultdict(list)

    def knows(self, workflow_id: str) -> bool:
        """Whether an attempt of it is here."""
        return workflow_id in self._of

    def running(self) -> set[str]:
        """Ids of workflows with a bar that has not ended."""
        return {bar["workflow_id"] for bar in self.items.values() if bar["ended_at"] is None}

    def keys(self, workflow_id: str) -> list[str]:
        """Of a workflow's bars, oldest first."""
        return list(self._of.get(workflow_id, ()))

    def open_keys(self, workflow_id: str) -> list[str]:
        """Of a workflow's bars that have not ended, oldest first."""
        return [key for key in self.keys(workflow_id) if self.items[key]["ended_at"] is None]

    def add(
        self, row: Row, *, executor_id: str, queue: str | None, attempt: int | None, inputs: str | None
    ) -> None:
        """A running bar; ``row`` has workflow_id, started_ms, name and may have instance_name."""
        workflow_id = row["workflow_id"]
        key = key_of(row)
        known = self._of.get(workflow_id)
        self.put(
            {
                "key": key,
                "workflow_id": workflow_id,
                "name": row["name"],
                "label": self.items[known[0]]["label"]
                if known
                else label(row["name"], row.get("instance_name"), inputs),
                "executor_id": executor_id,
                "queue": queue,
                "started_at": row["started_ms"] / 1000,
                "ended_at": None,
                "outcome": "running",
                "attempt": attempt or 1,
                "next": None,
            }
        )
        self._of[workflow_id].append(key)
        self._of[workflow_id].sort(key=lambda k: self.items[k]["started_at"])
        # Each attempt that another one continues says which.
        for earlier, following in pairwise(self._of[workflow_id]):
            self.update(earlier, next=following)

    def close(self, key: str, outcome: str, ended_at: float) -> None:
        """End a bar, not before its start."""
        ended_at = max(ended_at, self.items[key]["started_at"])
        self.update(key, outcome=outcome, ended_at=round(ended_at, 3))

    def drop(self, key: str) -> None:
        """Remove; an unknown key is no change."""
        bar = self.items.get(key)
        super().drop(key)
        if bar is not None:
            keys = self._of[bar["workflow_id"]]
            keys.remove(key)
            if not keys:
                del self._of[bar["workflow_id"]]


class More:
    """By executor: how many attempts began in each 15 s and are not among the bars."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[int, int]] = {}
        self._changed: set[str] = set()

    def count(self, executor_id: str, started_at: float, workflows: int) -> None:
        """That many more began at that time."""
        bucket = int(started_at // BUCKET_SECONDS * BUCKET_SECONDS)
        buckets = self._counts.setdefault(executor_id, {})
        buckets[bucket] = buckets.get(bucket, 0) + workflows
        self._changed.add(executor_id)

    def forget(self, horizon: float) -> None:
        """Drops what ended before that time."""
        for executor_id, buckets in list(self._counts.items()):
            for bucket in [b for b in buckets if b + BUCKET_SECONDS < horizon]:
                del buckets[bucket]
            if not buckets:
                del self._counts[executor_id]

    def shown(self) -> dict[str, list[list[int]]]:
        """By executor: start, length and count of each bucket, oldest first."""
        return {executor_id: self._buckets(executor_id) for executor_id in self._counts}

    def take(self) -> dict[str, list[list[int]]]:
        """The same for executors whose counts grew since the last call."""
        changed, self._changed = self._changed, set()
        return {executor_id: self._buckets(executor_id) for executor_id in changed & self._counts.keys()}

    def _buckets(self, executor_id: str) -> list[list[int]]:
        return [[bucket, BUCKET_SECONDS, n] for bucket, n in sorted(self._counts[executor_id].items())]


def key_of(row: Row) -> str:
    """A bar's key: its workflow and when it began."""
    return f"{row['workflow_id']}@{row['started_ms']}"
