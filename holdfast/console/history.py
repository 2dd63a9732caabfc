"""The page's timeline, updated from rows: attempts of workflows (bars) and moves between executors.

No I/O: rows have the form that `holdfast/console/sql/console.sql` returns, items the form that the page gets.
Times are seconds since 1970 on the database's clock; columns that end in ``_ms`` are milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from holdfast.console.bars import Bars, Collection, Item, More, Row, key_of
from holdfast.statuses import PARKED, Status

_OUTCOME: dict[Status, str] = {
    "PENDING": "running",
    "SUCCESS": "success",
    "ERROR": "error",
    "CANCELLED": "cancelled",
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "parked",
    # Returned to its queue. The move with the kind and the reason follows.
    "ENQUEUED": "handed_over",
    "DELAYED": "handed_over",
}
_MOVED = {"takeover": "lost", "orphan": "lost", "adoption": "lost", "handover": "handed_over"}


class History:
    """Bars and moves within a window: at most the newest `bar_limit` and `move_limit`."""

    def __init__(self, *, window_seconds: float, bar_limit: int, move_limit: int) -> None:
        self.window_seconds = window_seconds
        self.bar_limit = bar_limit
        self.move_limit = move_limit
        self.bars = Bars()
        self.moves = Collection("id")
        self.more = More()
        self.floor = 0.0
        """Attempts that started up to this time are bars or counted."""

    # --- rows in ---------------------------------------------------------------------------

    def attempts(self, rows: Iterable[Row], inputs: dict[str, str], now: float) -> None:
        """Adds or updates attempts, in any order. `inputs` holds the inputs that their labels need."""
        for row in sorted(rows, key=lambda row: row["started_ms"] or 0):
            self._attempt(row, inputs.get(row["workflow_id"]), now)

    def _attempt(self, row: Row, inputs: str | None, now: float) -> None:
        workflow_id, outcome = row["workflow_id"], _OUTCOME.get(row["status"], "handed_over")
        ended_at = _seconds(row["ended_ms"])
        if row["started_ms"] is None:
            # Its start was deleted: it was cancelled, parked, or returned to a queue.
            for key in self.bars.open_keys(workflow_id):
                self.bars.close(key, outcome, now if ended_at is None else ended_at)
            return
        started_at = row["started_ms"] / 1000
        key = key_of(row)
        if key not in self.bars.items:
            too_old = outcome != "running" and self._too_old(started_at, ended_at, now)
            if too_old or row["executor_id"] is None:
                return
            for other in self.bars.open_keys(workflow_id):
                self.bars.close(other, "lost", started_at)
            self.bars.add(
                row,
                executor_id=row["executor_id"],
                queue=row["queue"],
                attempt=row["attempts"],
                inputs=inputs,
            )
        if outcome != "running":
            ended_at = now if ended_at is None else ended_at
        elif self.bars.items[key]["outcome"] != "running":
            return  # the row is older than the one that ended the bar
        self.bars.update(key, outcome=outcome, ended_at=ended_at)

    def vanished(self, workflow_ids: Iterable[str]) -> None:
        """Drops the bars of deleted workflows."""
        for workflow_id in workflow_ids:
            for key in self.bars.keys(workflow_id):
                self.bars.drop(key)

    def moved(self, rows: Iterable[Row], inputs: dict[str, str], now: float) -> None:
        """Adds moves, oldest first. Each one ends the attempt that it moved, with or without a bar."""
        for row in rows:
            self.moves.put(move(row))
            if row["started_ms"] is None:
                # The start is not recorded: only an attempt that has a bar can be ended.
                for key in self.bars.open_keys(row["workflow_id"]):
                    if self.bars.items[key]["executor_id"] == row["from_executor"]:
                        self.bars.close(key, _MOVED[row["kind"]], row["lost_at"])
                continue
            key = key_of(row)
            if key not in self.bars.items:
                if row["lost_at"] < now - self.window_seconds:
                    continue
                self.bars.add(
                    row,
                    executor_id=row["from_executor"],
                    queue=None,
                    attempt=row["attempt"],
                    inputs=inputs.get(row["workflow_id"]),
                )
            parked = row["status"] == PARKED and row["claimed_at"] is None
            self.bars.close(key, "parked" if parked else _MOVED[row["kind"]], row["lost_at"])

    def add_counts(self, rows: Iterable[Row], before: float) -> None:
        """Adds counts of attempts that started before `before` and were too many to read one by one."""
        for row in rows:
            self.more.count(row["executor_id"], row["bucket"], row["workflows"])
        self.floor = max(self.floor, before - 0.001)

    # --- bounds ----------------------------------------------------------------------------

    def trim(self, now: float) -> None:
        """Drops what left the window. Bars above the limit become counts."""
        horizon = now - self.window_seconds
        bars = self.bars.items
        for key in [
            k for k, bar in bars.items() if bar["ended_at"] is not None and bar["ended_at"] < horizon
        ]:
            self.bars.drop(key)
        over = len(bars) - self.bar_limit
        if over > 0:
            # Ended bars are dropped first, then the longest running ones.
            order = sorted(bars.values(), key=lambda bar: (bar["ended_at"] is None, bar["started_at"]))
            for bar in order[:over]:
                self.bars.drop(bar["key"])
                self.more.count(bar["executor_id"], bar["started_at"], 1)
                if bar["ended_at"] is not None:
                    self.floor = max(self.floor, bar["started_at"])
        moves = sorted(self.moves.items.values(), key=lambda item: int(item["id"]))
        for item in moves[: max(0, len(moves) - self.move_limit)]:
            self.moves.drop(item["id"])
        for item in moves:
            if item["released_at"] < horizon:
                self.moves.drop(item["id"])
        self.more.forget(horizon)

    def open_moves(self) -> list[int]:
        """Returns the ids of moves whose workflow waits for its next executor."""
        return [int(item["id"]) for item in self.moves.items.values() if item["claimed_at"] is None]

    # --- out -------------------------------------------------------------------------------

    def last_takeover(self) -> Item | None:
        """Returns the newest takeover within the window; None if there was none.

        ``seconds`` is its one duration, as the log has it. Work may then wait for a free slot: at most
        ``slot_wait_seconds``, of what runs again by now.
        """
        taken = [item for item in self.moves.items.values() if item["kind"] == "takeover"]
        if not taken:
            return None
        last = max(taken, key=lambda item: (item["released_at"], int(item["id"])))
        group = [item for item in taken if item["from"] == last["from"]]
        claimed = [item for item in group if item["claimed_at"] is not None]
        claimers = [item["to"] for item in claimed]
        waits = [item["claimed_at"] - item["released_at"] for item in claimed]
        return {
            "at": last["released_at"],
            "seconds": last["takeover_seconds"],
            "slot_wait_seconds": _round(max(waits, default=None)),
            "workflows": len({item["workflow_id"] for item in group}),
            "from": last["from"],
            "by": max(set(claimers), key=claimers.count) if claimers else last["released_by"],
        }

    def _too_old(self, started_at: float, ended_at: float | None, now: float) -> bool:
        return started_at <= self.floor or (ended_at or now) < now - self.window_seconds


def move(row: Row) -> Item:
    """Converts a row of `console_moves` to the page's form."""
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
        "takeover_seconds": row["takeover_seconds"],
    }


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _round(seconds: Any) -> Any:
    return None if seconds is None else round(seconds, 3)
