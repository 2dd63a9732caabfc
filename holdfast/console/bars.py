"""The attempts of workflows that the page draws (bars), and counts of those that it does not draw.

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
    """Items by key. It records what was added, changed or dropped since the last `take`."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.items: dict[Any, Item] = {}
        self._changed: dict[Any, Item] = {}
        self._gone: dict[Any, None] = {}

    def put(self, item: Item) -> None:
        """Adds or replaces an item. An equal item is not a change."""
        key = item[self.key]
        if self.items.get(key) != item:
            self.items[key] = self._changed[key] = item
            self._gone.pop(key, None)

    def update(self, key: Any, **fields: Any) -> None:
        """Changes fields of a known item."""
        self.put({**self.items[key], **fields})

    def drop(self, key: Any) -> None:
        """Removes an item. An unknown key is not a change."""
        if self.items.pop(key, None) is not None:
            self._changed.pop(key, None)
            self._gone[key] = None

    def keep(self, items: Iterable[Item]) -> None:
        """Replaces all items by these."""
        wanted = {item[self.key]: item for item in items}
        for key in self.items.keys() - wanted.keys():
            self.drop(key)
        for item in wanted.values():
            self.put(item)

    def take(self) -> tuple[list[Item], list[Any]]:
        """Returns the changed items and the dropped keys since the last call."""
        taken = list(self._changed.values()), list(self._gone)
        self._changed, self._gone = {}, {}
        return taken


class Bars(Collection):
    """Attempts by ``workflow@start in ms``. The attempts of one workflow are ordered by start."""

    def __init__(self) -> None:
        super().__init__("key")
        self._keys_by_workflow: defaultdict[str, list[str]] = defaultdict(list)

    def knows(self, workflow_id: str) -> bool:
        """Whether there is a bar of this workflow."""
        return workflow_id in self._keys_by_workflow

    def running(self) -> set[str]:
        """Returns the ids of workflows with a bar that has not ended."""
        return {bar["workflow_id"] for bar in self.items.values() if bar["ended_at"] is None}

    def keys(self, workflow_id: str) -> list[str]:
        """Returns the keys of a workflow's bars, oldest first."""
        return list(self._keys_by_workflow.get(workflow_id, ()))

    def open_keys(self, workflow_id: str) -> list[str]:
        """Returns the keys of a workflow's bars that have not ended, oldest first."""
        return [key for key in self.keys(workflow_id) if self.items[key]["ended_at"] is None]

    def add(
        self, row: Row, *, executor_id: str, queue: str | None, attempt: int | None, inputs: str | None
    ) -> None:
        """Adds a running bar. ``row`` has workflow_id, started_ms, name and may have instance_name."""
        workflow_id = row["workflow_id"]
        key = key_of(row)
        known = self._keys_by_workflow.get(workflow_id)
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
        self._keys_by_workflow[workflow_id].append(key)
        self._keys_by_workflow[workflow_id].sort(key=lambda k: self.items[k]["started_at"])
        # Each attempt refers to the next one of its workflow.
        for earlier, following in pairwise(self._keys_by_workflow[workflow_id]):
            self.update(earlier, next=following)

    def close(self, key: str, outcome: str, ended_at: float) -> None:
        """Ends a bar, at the earliest at its start."""
        ended_at = max(ended_at, self.items[key]["started_at"])
        self.update(key, outcome=outcome, ended_at=round(ended_at, 3))

    def drop(self, key: str) -> None:
        """Removes an item. An unknown key is not a change."""
        bar = self.items.get(key)
        super().drop(key)
        if bar is not None:
            keys = self._keys_by_workflow[bar["workflow_id"]]
            keys.remove(key)
            if not keys:
                del self._keys_by_workflow[bar["workflow_id"]]


class More:
    """Counts of attempts that have no bar, by executor and 15 s interval of their start."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[int, int]] = {}
        self._changed: set[str] = set()

    def count(self, executor_id: str, started_at: float, workflows: int) -> None:
        """Adds a number of attempts that started at that time."""
        bucket = int(started_at // BUCKET_SECONDS * BUCKET_SECONDS)
        buckets = self._counts.setdefault(executor_id, {})
        buckets[bucket] = buckets.get(bucket, 0) + workflows
        self._changed.add(executor_id)

    def forget(self, horizon: float) -> None:
        """Drops the intervals that ended before that time."""
        for executor_id, buckets in list(self._counts.items()):
            for bucket in [b for b in buckets if b + BUCKET_SECONDS < horizon]:
                del buckets[bucket]
            if not buckets:
                del self._counts[executor_id]

    def shown(self) -> dict[str, list[list[int]]]:
        """Returns start, length and count of each interval by executor, oldest first."""
        return {executor_id: self._buckets(executor_id) for executor_id in self._counts}

    def take(self) -> dict[str, list[list[int]]]:
        """Returns the same as `shown`, for executors whose counts grew since the last call."""
        changed, self._changed = self._changed, set()
        return {executor_id: self._buckets(executor_id) for executor_id in changed & self._counts.keys()}

    def _buckets(self, executor_id: str) -> list[list[int]]:
        return [[bucket, BUCKET_SECONDS, n] for bucket, n in sorted(self._counts[executor_id].items())]


def key_of(row: Row) -> str:
    """Returns the key of a bar: its workflow and its start."""
    return f"{row['workflow_id']}@{row['started_ms']}"
