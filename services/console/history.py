"""What the page shows, kept up to date from rows: attempts of workflows (bars), moves between executors.

No I/O: rows come in as `services/runtime/sql/console.sql` returns them, items go out as the page gets them.
Times are seconds since 1970 on the database's clock; columns that end in ``_ms`` are milliseconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from services.console.labels import label

Item = dict[str, Any]
Row = dict[str, Any]

BUCKET_SECONDS = 15

_OUTCOME = {
    "PENDING": "running",
    "SUCCESS": "success",
    "ERROR": "error",
    "CANCELLED": "cancelled",
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "parked",
    # Given back to its queue; the move that says how and why comes right after.
    "ENQUEUED": "handed_over",
    "DELAYED": "handed_over",
}
_MOVED = {"takeover": "lost", "orphan": "lost", "adoption": "lost", "handover": "handed_over"}


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


class History:
    """Bars and moves within a window, the newest `bar_limit` and `move_limit` of them."""

    def __init__(self, *, window_seconds: float, bar_limit: int, move_limit: int) -> None:
        self.window_seconds = window_seconds
        self.bar_limit = bar_limit
        self.move_limit = move_limit
        self.bars = Collection("key")
        self.moves = Collection("id")
        self.more: dict[str, dict[int, int]] = {}
        """By executor: how many attempts began in each 15 s and are not among the bars."""
        self._more_changed: set[str] = set()
        self._of: defaultdict[str, list[str]] = defaultdict(list)
        self._floor = 0.0

    # --- rows in ---------------------------------------------------------------------------

    def knows(self, workflow_id: str) -> bool:
        """Whether an attempt of it is among the bars."""
        return workflow_id in self._of

    def running(self) -> set[str]:
        """Ids of workflows with a bar that has not ended."""
        return {bar["workflow_id"] for bar in self.bars.items.values() if bar["ended_at"] is None}

    def attempts(self, rows: Iterable[Row], inputs: dict[str, str], now: float) -> None:
        """Present or final attempts, in any order; `inputs` holds what their labels need."""
        for row in sorted(rows, key=lambda row: row["started_ms"] or 0):
            self._attempt(row, inputs.get(row["workflow_id"]), now)

    def _attempt(self, row: Row, inputs: str | None, now: float) -> None:
        workflow_id, outcome = row["workflow_id"], _OUTCOME.get(row["status"], "handed_over")
        ended_at = _seconds(row["ended_ms"])
        if row["started_ms"] is None:
            # It gave its start away: cancelled, parked, or back in a queue.
            for key in self._open_keys(workflow_id):
                self._close(key, outcome, now if ended_at is None else ended_at)
            return
        started_at = row["started_ms"] / 1000
        key = f"{workflow_id}@{row['started_ms']}"
        if key not in self.bars.items:
            too_old = outcome != "running" and self._too_old(started_at, ended_at, now)
            if too_old or row["executor_id"] is None:
                return
            for other in self._open_keys(workflow_id):
                self._close(other, "lost", max(started_at, self.bars.items[other]["started_at"]))
            self._add(
                key,
                row,
                started_at,
                executor_id=row["executor_id"],
                queue=row["queue"],
                attempt=row["attempts"],
                inputs=inputs,
            )
        if outcome != "running":
            ended_at = now if ended_at is None else ended_at
        elif self.bars.items[key]["outcome"] != "running":
            return  # an older look than the one that ended it
        self.bars.update(key, outcome=outcome, ended_at=ended_at)
        self._link(workflow_id)

    def vanished(self, workflow_ids: Iterable[str]) -> None:
        """These workflows were deleted."""
        for workflow_id in workflow_ids:
            for key in list(self._of.get(workflow_id, ())):
                self._drop(key)

    def moved(self, rows: Iterable[Row], inputs: dict[str, str], now: float) -> None:
        """Moves, oldest first. Each ends the attempt that it took away, known before or not."""
        for row in rows:
            self.moves.put(move(row))
            if row["started_ms"] is None:
                # Nobody wrote down when it began: only an attempt that was seen can be ended.
                for key in self._open_keys(row["workflow_id"]):
                    if self.bars.items[key]["executor_id"] == row["from_executor"]:
                        self._close(key, _MOVED[row["kind"]], row["lost_at"])
                continue
            key = f"{row['workflow_id']}@{row['started_ms']}"
            if key not in self.bars.items:
                if row["lost_at"] < now - self.window_seconds:
                    continue
                self._add(
                    key,
                    row,
                    row["started_ms"] / 1000,
                    executor_id=row["from_executor"],
                    queue=None,
                    attempt=row["attempt"],
                    inputs=inputs.get(row["workflow_id"]),
                )
            parked = row["status"] == "MAX_RECOVERY_ATTEMPTS_EXCEEDED" and row["claimed_at"] is None
            outcome = "parked" if parked else _MOVED[row["kind"]]
            ended_at = max(row["lost_at"], self.bars.items[key]["started_at"])
            self.bars.update(key, outcome=outcome, ended_at=_round(ended_at))
            self._link(row["workflow_id"])

    def counted(self, rows: Iterable[Row], before: float) -> None:
        """Attempts that began before that moment and were too many to be read one by one."""
        for row in rows:
            self._count(row["executor_id"], int(row["bucket"]), row["workflows"])
        self._floor = max(self._floor, before - 0.001)

    @property
    def floor(self) -> float:
        """Attempts that began up to here are bars, or counted."""
        return self._floor

    # --- bounds ----------------------------------------------------------------------------

    def trim(self, now: float) -> None:
        """Forgets what left the window, and counts what is too much to show."""
        horizon = now - self.window_seconds
        bars = self.bars.items
        for key in [
            k for k, bar in bars.items() if bar["ended_at"] is not None and bar["ended_at"] < horizon
        ]:
            self._drop(key)
        over = len(bars) - self.bar_limit
        if over > 0:
            # Those that ended go first, then those that run for the longest.
            order = sorted(bars.values(), key=lambda bar: (bar["ended_at"] is None, bar["started_at"]))
            for bar in order[:over]:
                self._drop(bar["key"])
                self._count(bar["executor_id"], int(bar["started_at"] // BUCKET_SECONDS * BUCKET_SECONDS), 1)
                if bar["ended_at"] is not None:
                    self._floor = max(self._floor, bar["started_at"])
        moves = sorted(self.moves.items.values(), key=lambda item: int(item["id"]))
        for item in moves[: max(0, len(moves) - self.move_limit)]:
            self.moves.drop(item["id"])
        for item in moves:
            if item["released_at"] < horizon:
                self.moves.drop(item["id"])
        for executor_id, buckets in list(self.more.items()):
            for bucket in [b for b in buckets if b + BUCKET_SECONDS < horizon]:
                del buckets[bucket]
            if not buckets:
                del self.more[executor_id]

    def open_moves(self) -> list[int]:
        """Ids of moves whose workflow waits for its next executor."""
        return [int(item["id"]) for item in self.moves.items.values() if item["claimed_at"] is None]

    # --- out -------------------------------------------------------------------------------

    def shown_more(self) -> dict[str, list[list[int]]]:
        """By executor: start, length and count of each bucket, oldest first."""
        return {executor_id: self._buckets(executor_id) for executor_id in self.more}

    def take_more(self) -> dict[str, list[list[int]]]:
        """The same for executors whose counts grew since the last call."""
        changed, self._more_changed = self._more_changed, set()
        return {
            executor_id: self._buckets(executor_id) for executor_id in changed if executor_id in self.more
        }

    def last_takeover(self) -> Item | None:
        """The newest takeover within the window; None when there was none."""
        taken = [item for item in self.moves.items.values() if item["kind"] == "takeover"]
        if not taken:
            return None
        last = max(taken, key=lambda item: (item["released_at"], int(item["id"])))
        group = [item for item in taken if item["from"] == last["from"]]
        claimers = [item["to"] for item in group if item["to"] is not None]
        done_at = max(
            item["released_at"] if item["claimed_at"] is None else item["claimed_at"] for item in group
        )
        return {
            "at": done_at,
            "seconds": _round(done_at - min(item["lost_at"] for item in group)),
            "workflows": len({item["workflow_id"] for item in group}),
            "from": last["from"],
            "by": max(set(claimers), key=claimers.count) if claimers else last["released_by"],
        }

    # --- bars ------------------------------------------------------------------------------

    def _open_keys(self, workflow_id: str) -> list[str]:
        keys = self._of.get(workflow_id, ())
        return [key for key in keys if self.bars.items[key]["ended_at"] is None]

    def _too_old(self, started_at: float, ended_at: float | None, now: float) -> bool:
        return started_at <= self._floor or (ended_at or now) < now - self.window_seconds

    def _add(
        self,
        key: str,
        row: Row,
        started_at: float,
        *,
        executor_id: str,
        queue: str | None,
        attempt: int | None,
        inputs: str | None,
    ) -> None:
        workflow_id = row["workflow_id"]
        known = self._of.get(workflow_id)
        text = (
            self.bars.items[known[0]]["label"]
            if known
            else label(row["name"], row.get("instance_name"), inputs)
        )
        self.bars.put(
            {
                "key": key,
                "workflow_id": workflow_id,
                "name": row["name"],
                "label": text,
                "executor_id": executor_id,
                "queue": queue,
                "started_at": started_at,
                "ended_at": None,
                "outcome": "running",
                "attempt": attempt or 1,
                "next": None,
            }
        )
        self._of[workflow_id].append(key)
        self._of[workflow_id].sort(key=lambda k: self.bars.items[k]["started_at"])

    def _close(self, key: str, outcome: str, ended_at: float) -> None:
        self.bars.update(key, outcome=outcome, ended_at=_round(ended_at))

    def _link(self, workflow_id: str) -> None:
        """Each attempt that another one continues says which."""
        keys = self._of[workflow_id]
        for key, following in pairwise(keys):
            if self.bars.items[key]["next"] != following:
                self.bars.update(key, next=following)

    def _drop(self, key: str) -> None:
        workflow_id = self.bars.items[key]["workflow_id"]
        self.bars.drop(key)
        self._of[workflow_id].remove(key)
        if not self._of[workflow_id]:
            del self._of[workflow_id]

    def _count(self, executor_id: str, bucket: int, workflows: int) -> None:
        buckets = self.more.setdefault(executor_id, {})
        buckets[bucket] = buckets.get(bucket, 0) + workflows
        self._more_changed.add(executor_id)

    def _buckets(self, executor_id: str) -> list[list[int]]:
        return [[bucket, BUCKET_SECONDS, n] for bucket, n in sorted(self.more[executor_id].items())]


def move(row: Row) -> Item:
    """A row of `console_moves` as the page gets it."""
    return {
        "id": str(row["handover_id"]),
        "workflow_id": row["workflow_id"],
        "kind": row["kind"],
        "reason": row["reason"],
        "from": row["from_executor"],
        "to": row["to_executor"],
        "released_by": row["released_by"],
        "lost_at": _round(row["lost_at"]),
        "released_at": _round(row["released_at"]),
        "claimed_at": _round(row["claimed_at"]),
    }


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _round(seconds: Any) -> Any:
    return None if seconds is None else round(seconds, 3)
