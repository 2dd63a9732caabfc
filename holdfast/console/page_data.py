"""The page's data beside the timeline: executors, pulses, queues and counts."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from holdfast.console.bars import Collection, Item, Row

EXECUTOR_LIMIT = 200
COUNT_SECONDS = 1.0
HEARTBEAT_STEP_SECONDS = 1.9
"""A newer heartbeat alone is published only if it is at least this much newer."""
MISSED_SECONDS = 10.0
CAUGHT_UP_SECONDS = 70.0
"""How far back pulses are read again: a worker that starts may backfill a gap."""
HISTORY_POINTS = 900


@dataclass(frozen=True)
class Pulse:
    """A schedule that writes a row to ``ops.pulses`` for each tick: its workflow, and its interval.

    The page shows it in a lane of its own, and not among the workflows.
    """

    workflow: str
    seconds: int


class PageData:
    """Reads executors at every poll; pulses, queues and counts once per second, or less often if slow."""

    def __init__(
        self,
        ask: Callable[..., Awaitable[list[Row]]],
        window_seconds: float,
        lease_seconds: float,
        pulse: Pulse | None,
    ) -> None:
        self._ask = ask
        self._pulse = pulse
        self._lease_seconds = lease_seconds
        self._window_seconds = window_seconds
        self.read_at: float | None = None
        """The database's time of the last complete poll."""
        self.executors = Collection("executor_id")
        self.pulses = Collection("scheduled_at")
        self.queues = Collection("queue")
        self.history: deque[list[Any]] = deque(maxlen=HISTORY_POINTS)
        self.counts = dict.fromkeys(("running", "queued", "parked", "stranded", "orphaned"), 0)
        self._new_points: list[list[Any]] = []
        self.applications: list[Item] = []
        """Unfinished work by application, for the page's filter."""
        self._published_counts: dict[str, int] | None = None
        self._published_applications: list[Item] | None = None
        self._count_at = 0.0
        self._pulses_read_at = 0.0

    async def read(self, executors: list[Row], now: float) -> None:
        """Sets the executors from their rows, and queries the rest if that is due."""
        self._set_executors(executors)
        if time.monotonic() >= self._count_at:
            began = time.monotonic()
            if self._pulse is not None:
                await self._read_pulses(now, self._pulse)
            await self._read_counts(now)
            cost = time.monotonic() - began
            # A large backlog (a million) takes long to count, so it is counted less often.
            self._count_at = began + max(COUNT_SECONDS, 10 * cost)
        self.read_at = now

    def document(self) -> dict[str, Any]:
        """Returns the snapshot's part of this data."""
        return {
            "executors": list(self.executors.items.values()),
            "pulses": sorted(self.pulses.items.values(), key=lambda item: item["scheduled_at"]),
            "queues": list(self.queues.items.values()),
            "queue_history": list(self.history),
            "counts": self.counts,
            "applications": self.applications,
        }

    def take(self) -> tuple[dict[str, Any], dict[str, list[Any]]]:
        """Returns the changes and the dropped keys since the last call."""
        executors, executors_gone = self.executors.take()
        pulses, _ = self.pulses.take()
        queues, queues_gone = self.queues.take()
        points, self._new_points = self._new_points, []
        change: dict[str, Any] = {
            "executors": executors,
            "pulses": pulses,
            "queues": queues,
            "queue_history": points,
        }
        if self._published_counts != self.counts:
            change["counts"] = self._published_counts = self.counts
        if self._published_applications != self.applications:
            change["applications"] = self._published_applications = self.applications
        return change, {"executors": executors_gone, "queues": queues_gone}

    # --- executors -------------------------------------------------------------------------

    def _set_executors(self, rows: list[Row]) -> None:
        items: list[Item] = []
        for row in rows[:EXECUTOR_LIMIT]:
            if row["executor_id"] is None:
                continue
            item = {
                # A duration is not rounded twice: the log shows it with two digits, too.
                name: round(value, 6 if name.endswith("_seconds") else 3)
                if isinstance(value, float)
                else value
                for name, value in row.items()
                if name != "now"
            }
            before = self.executors.items.get(row["executor_id"])
            if (
                before is not None
                and 0 <= item["heartbeat_at"] - before["heartbeat_at"] < HEARTBEAT_STEP_SECONDS
            ):
                heartbeat_at = before["heartbeat_at"]
                item = before if {**item, "heartbeat_at": heartbeat_at} == before else item
            items.append(item)
        self.executors.keep(items)

    # --- pulses ----------------------------------------------------------------------------

    async def _read_pulses(self, now: float, pulse: Pulse) -> None:
        since = max(now - self._window_seconds, self._pulses_read_at - CAUGHT_UP_SECONDS)
        rows = await self._ask("console_pulses", since=since)
        is_first = not self.history and self._pulses_read_at == 0
        self._pulses_read_at = now
        seen = {}
        for row in rows:
            lateness = row["lateness_seconds"]
            seen[row["scheduled_at"]] = {
                "scheduled_at": row["scheduled_at"],
                "status": row["status"],
                "lateness_seconds": None if lateness is None else round(lateness, 3),
                "executor_id": row["executor_id"],
            }
        for item in seen.values():
            self.pulses.put(item)
        for tick in self._missing(now, pulse.seconds):
            self.pulses.put(
                {"scheduled_at": tick, "status": "missed", "lateness_seconds": None, "executor_id": None}
            )
        for key in [key for key in self.pulses.items if key < now - self._window_seconds]:
            self.pulses.drop(key)
        if is_first:
            # Recorded while no page was open: the depth of the Fibonacci queue at each pulse.
            for row in reversed(rows):
                self.history.append([round(row["started_at"], 3), row["queue_depth"], None])

    def _missing(self, now: float, interval_seconds: int) -> list[float]:
        """Returns the ticks of the grid after the first known one that are due but have no pulse."""
        known = {key for key, item in self.pulses.items.items() if item["status"] != "missed"}
        if not known:
            return []
        tick = min(known)
        missing: list[float] = []
        while tick < now - MISSED_SECONDS and len(missing) < 1000:
            if tick not in known and tick > now - self._window_seconds:
                missing.append(tick)
            tick += interval_seconds
        return missing

    # --- queues and counts -----------------------------------------------------------------

    async def _read_counts(self, now: float) -> None:
        rows = await self._ask("console_unfinished")
        other = (await self._ask("console_counts", lease_seconds=self._lease_seconds))[0]
        queues: dict[str, Item] = {}
        for row in rows:
            if row["status"] != "ENQUEUED" or not row["queue"]:
                continue
            item = queues.setdefault(
                row["queue"], {"queue": row["queue"], "depth": 0, "oldest_age_seconds": 0.0}
            )
            item["depth"] += row["workflows"]
            age = max(0.0, round(row["oldest_age_seconds"], 1))
            item["oldest_age_seconds"] = max(item["oldest_age_seconds"], age)
        self.queues.keep(queues.values())
        self.applications = _by_application(rows)
        queued = sum(item["depth"] for item in queues.values())
        oldest = max((item["oldest_age_seconds"] for item in queues.values()), default=0.0)
        self.counts = {
            "running": sum(row["workflows"] for row in rows if row["status"] == "PENDING"),
            "queued": queued,
            "parked": other["parked"],
            "stranded": other["stranded"],
            "orphaned": other["orphaned"],
        }
        point = [round(now, 3), queued, oldest]
        self.history.append(point)
        self._new_points.append(point)


def _by_application(rows: list[Row]) -> list[Item]:
    """Returns the running and the waiting work of each application, in the order of their names."""
    found: dict[str, Item] = {}
    for row in rows:
        name = row["application"]
        nothing = {"application": name, "running": 0, "queued": 0, "oldest_age_seconds": 0.0}
        item = found.setdefault(name, nothing)
        if row["status"] == "PENDING":
            item["running"] += row["workflows"]
        elif row["queue"]:
            item["queued"] += row["workflows"]
            age = max(0.0, round(row["oldest_age_seconds"]))
            item["oldest_age_seconds"] = max(item["oldest_age_seconds"], age)
    return [found[name] for name in sorted(found)]
