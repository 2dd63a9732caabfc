"""A made-up life of a Holdfast, in the shapes that the console's reader serves.

Workers claim Fibonacci numbers, one is killed and a peer takes over, one drains, ticks come and are missed.
It runs on a clock of its own (``skew_seconds`` off this machine's), so that a page which trusts the
browser's clock shows nonsense.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from datetime import UTC, datetime
from typing import Any

WINDOW_SECONDS = 900.0
TAKEOVER_SECONDS = 0.34
Item = dict[str, Any]


class World:
    """Executors, bars, moves, pulses and a queue. Every public method may be called from any thread."""

    def __init__(
        self, *, workers: int = 2, seed: int = 7, skew_seconds: float = 3.0, mean_seconds: float = 1.6
    ) -> None:
        self.lock = threading.RLock()
        self.random = random.Random(seed)
        self.skew_seconds = skew_seconds
        self.mean_seconds = mean_seconds
        self.boot = f"fake{seed}"
        self.chaos = True
        self.database_up = True
        self.database_since = 0.0
        self.pulses_on = True
        self.pulse_seconds: int | None = 5
        self.rev = 0
        self.numbers = itertools.count(1)
        self.executors: dict[str, Item] = {}
        self.bars: dict[str, Item] = {}
        self.moves: dict[int, Item] = {}
        self.pulses: dict[float, Item] = {}
        self.history: list[tuple[float, int, float]] = []
        self.gone: list[tuple[int, str, Any]] = []
        self.queue: list[Item] = []
        self.last_takeover: Item | None = None
        self.parked = self.stranded = self.orphaned = 0
        self.more: dict[str, list[list[float]]] = {}
        self._due: list[tuple[float, Any]] = []
        self._ends: dict[str, float] = {}
        self.at = time.time() + skew_seconds
        for _ in range(workers):
            self.start_executor("worker")
        self.start_executor("api")

    # --- what happens ----------------------------------------------------------------------

    def start_executor(self, role: str, slots: int = 4, *, application: str | None = None) -> str:
        """A new process appears, live."""
        with self.lock:
            executor_id = f"{role}-holdfast-{self.random.getrandbits(32):08x}"
            self.executors[executor_id] = self.touch(
                {
                    "executor_id": executor_id,
                    "application": application or f"holdfast-{role}",
                    "role": role,
                    "version": "0.1.0",
                    "state": "live",
                    "hostname": "holdfast",
                    "pid": self.random.randrange(1000, 30000),
                    "slots": slots if role == "worker" else 16,
                    "in_flight": 0,
                    "heartbeat_at": self.at,
                    "started_at": self.at,
                    "ended_at": None,
                    "lost_at": None,
                    "taken_over_by": None,
                    "taken_over_at": None,
                    "reason": None,
                }
            )
            return executor_id

    def batch(self, count: int = 50) -> str:
        """A batch: ``count`` numbers wait in the queue."""
        with self.lock:
            batch_id = f"batch-{next(self.numbers)}"
            self.claim(
                self._api() or "", {"workflow_id": batch_id, "name": "fibonacci.batch", "label": "batch"}, 8.0
            )
            for index in range(count):
                self.queue.append(
                    {
                        "workflow_id": f"{batch_id}-{index}",
                        "name": "fibonacci.number",
                        "label": f"fib({min(34, 24 + index % 11)})",
                        "queue": "fibonacci",
                        "since": self.at,
                        "attempt": 1,
                    }
                )
            return batch_id

    def scope(self, seconds: float = 15.0) -> str:
        """A class-scope workflow on the API."""
        with self.lock:
            workflow_id = f"class-scope-{next(self.numbers)}"
            self.claim(
                self._api() or "",
                {
                    "workflow_id": workflow_id,
                    "name": "ClassScope.run",
                    "label": "scope: class",
                    "queue": "scope",
                },
                seconds,
            )
            return workflow_id

    def kill(self, executor_id: str, *, taken_over: bool = True, restart: bool = True) -> None:
        """It dies at once; a peer takes its work over ``TAKEOVER_SECONDS`` later."""
        with self.lock:
            dead = self.executors[executor_id]
            dead.update(state="dead", lost_at=self.at, ended_at=self.at, reason="lock lost", in_flight=0)
            self.touch(dead)
            if not taken_over:
                self.orphaned += len(self.running(executor_id))
                return
            lost_at = self.at
            self._due.append((self.at + TAKEOVER_SECONDS, lambda: self._take_over(dead, lost_at)))
            if restart:
                self._due.append((self.at + 1.5, lambda: self.start_executor(dead["role"])))

    def drain(self, executor_id: str) -> None:
        """It finishes a little, hands over the rest, and ends."""
        with self.lock:
            executor = self.executors[executor_id]
            executor["state"] = "draining"
            self.touch(executor)

            def leave() -> None:
                running = self._release(executor, "handed_over", "handover", "drain", self.at)
                executor.update(state="drained", ended_at=self.at, reason="drained", in_flight=0)
                self.touch(executor)
                self.queue[:0] = running

            self._due.append((self.at + 2.5, leave))
            self._due.append((self.at + 3.5, lambda: self.start_executor(executor["role"])))

    def cancel(self, workflow_id: str) -> None:
        """Its running attempt ends, cancelled."""
        with self.lock:
            self.queue = [w for w in self.queue if w["workflow_id"] != workflow_id]
            for bar in list(self.bars.values()):
                if bar["workflow_id"] == workflow_id and bar["ended_at"] is None:
                    self._end(bar, "cancelled")

    def delete(self, workflow_id: str) -> int:
        """It and all below it are gone. Returns their number."""
        with self.lock:
            family = {key: bar["workflow_id"] for key, bar in self.bars.items()}
            gone = {key: each for key, each in family.items() if f"{each}-".startswith(f"{workflow_id}-")}
            for key in gone:
                del self.bars[key]
            return len({*gone.values()})

    def lose_database(self) -> None:
        """Nothing more is known."""
        with self.lock:
            self.database_up, self.database_since = False, self.at
            self.rev += 1

    def find_database(self) -> None:
        """It is back."""
        with self.lock:
            self.database_up, self.database_since = True, self.at
            self.rev += 1

    # --- time ------------------------------------------------------------------------------

    def now(self) -> float:
        """The fake database's clock."""
        return time.time() + self.skew_seconds

    def step(self, at: float) -> None:
        """Let everything up to ``at`` happen."""
        with self.lock:
            while self.at < at:
                self.at = min(at, self.at + 0.05)
                if self.database_up:
                    self._tick()

    def _tick(self) -> None:
        due = sorted((d for d in self._due if d[0] <= self.at), key=lambda d: d[0])
        self._due = [d for d in self._due if d[0] > self.at]
        for _, action in due:
            action()
        for key, end in list(self._ends.items()):
            if end <= self.at and key in self.bars:
                self._end(self.bars[key], "error" if self.random.random() < 0.004 else "success")
        for executor in self.executors.values():
            if executor["state"] in ("live", "draining") and self.at - executor["heartbeat_at"] >= 1.0:
                executor["heartbeat_at"] = self.at
                self.touch(executor)
            if executor["state"] == "live" and executor["role"] == "worker":
                while self.queue and executor["in_flight"] < executor["slots"]:
                    work = self.queue.pop(0)
                    seconds = 0.3 + self.random.expovariate(1 / self.mean_seconds)
                    self.claim(executor["executor_id"], work, seconds)
        slot = self.at // 5 * 5
        if slot not in self.pulses and self.pulses_on and self.at - slot > 0.05:
            late = self.at - slot
            live = [e for e in self.executors.values() if e["state"] == "live" and e["role"] == "worker"]
            if live:
                by = self.random.choice(live)["executor_id"]
                pulse = {"scheduled_at": slot, "status": "run", "lateness_seconds": late, "executor_id": by}
            else:
                pulse = {
                    "scheduled_at": slot,
                    "status": "missed",
                    "lateness_seconds": None,
                    "executor_id": None,
                }
            self.pulses[slot] = self.touch(pulse)
        if not self.history or self.at - self.history[-1][0] >= 1:
            oldest = min((w["since"] for w in self.queue), default=self.at)
            self.history.append((self.at, len(self.queue), round(self.at - oldest, 3)))
            self.rev += 1
            self._prune()

    def _prune(self) -> None:
        edge = self.at - WINDOW_SECONDS
        self.history = [point for point in self.history if point[0] > edge]
        for key in [k for k, b in self.bars.items() if b["ended_at"] and b["ended_at"] < edge]:
            del self.bars[key]
            self._went("bars", key)
        for key in [k for k, e in self.executors.items() if e["ended_at"] and e["ended_at"] < edge]:
            del self.executors[key]
            self._went("executors", key)

    def _went(self, kind: str, key: Any) -> None:
        self.rev += 1
        self.gone.append((self.rev, kind, key))

    # --- the pieces ------------------------------------------------------------------------

    def touch(self, item: Item) -> Item:
        """Mark an item as changed, so that streams send it."""
        self.rev += 1
        item["_rev"] = self.rev
        return item

    def claim(self, executor_id: str, work: Item, seconds: float) -> Item:
        """An attempt begins on an executor, and ends after ``seconds``."""
        key = f"{work['workflow_id']}@{next(self.numbers)}"
        bar = self.touch(
            {
                "key": key,
                "workflow_id": work["workflow_id"],
                "name": work["name"],
                "label": work["label"],
                "executor_id": executor_id,
                "queue": work.get("queue"),
                "started_at": self.at,
                "ended_at": None,
                "outcome": "running",
                "attempt": work.get("attempt", 1),
                "next": None,
            }
        )
        self.bars[key] = bar
        self._ends[key] = self.at + seconds
        if executor_id in self.executors:
            self.executors[executor_id]["in_flight"] += 1
            self.touch(self.executors[executor_id])
        former = self.bars.get(work.get("former", ""))
        if former:
            former["next"] = key
            self.touch(former)
        move = self.moves.get(work.get("move", -1))
        if move:
            move.update(to=executor_id, claimed_at=self.at)
            self.touch(move)
        return bar

    def _end(self, bar: Item, outcome: str) -> None:
        bar.update(ended_at=self.at, outcome=outcome)
        self.touch(bar)
        self._ends.pop(bar["key"], None)
        executor = self.executors.get(bar["executor_id"])
        if executor and executor["state"] in ("live", "draining"):
            executor["in_flight"] = max(0, executor["in_flight"] - 1)
            self.touch(executor)

    def running(self, executor_id: str) -> list[Item]:
        return [b for b in self.bars.values() if b["executor_id"] == executor_id and b["ended_at"] is None]

    def _release(self, executor: Item, outcome: str, kind: str, reason: str, lost_at: float) -> list[Item]:
        released = []
        for bar in self.running(executor["executor_id"]):
            self._end(bar, outcome)
            bar["ended_at"] = lost_at
            move_id = next(self.numbers)
            self.moves[move_id] = self.touch(
                {
                    "id": move_id,
                    "workflow_id": bar["workflow_id"],
                    "kind": kind,
                    "reason": reason,
                    "from": executor["executor_id"],
                    "to": None,
                    "lost_at": lost_at,
                    "released_at": self.at,
                    "claimed_at": None,
                    "takeover_seconds": self.at - lost_at,
                }
            )
            again = {k: bar[k] for k in ("workflow_id", "name", "label", "queue")}
            again.update(since=self.at, attempt=bar["attempt"] + 1, former=bar["key"], move=move_id)
            released.append(again)
        return released

    def _take_over(self, dead: Item, lost_at: float) -> None:
        peers = [
            e
            for e in self.executors.values()
            if e["state"] == "live" and e["role"] == dead["role"] and e is not dead
        ]
        if not peers:
            self._due.append((self.at + 0.2, lambda: self._take_over(dead, lost_at)))
            return
        by = peers[0]
        running = self._release(dead, "lost", "takeover", "lock lost", lost_at)
        dead.update(
            taken_over_by=by["executor_id"], taken_over_at=self.at, takeover_seconds=self.at - lost_at
        )
        self.touch(dead)
        self.last_takeover = {
            "at": self.at,
            "seconds": self.at - lost_at,
            "slot_wait_seconds": None,
            "workflows": len(running),
            "from": dead["executor_id"],
            "by": by["executor_id"],
        }
        # Back into the queue, in front: any process with a free slot claims it.
        self.queue[:0] = running

    def _api(self) -> str | None:
        return next(
            (
                e["executor_id"]
                for e in self.executors.values()
                if e["role"] == "api" and e["state"] == "live"
            ),
            None,
        )


def lived(seconds: float = 900.0, **options: Any) -> World:
    """A world with a past: batches come, a worker is killed now and then, one drains."""
    world = World(**options)
    now = world.at
    world.at = now - seconds
    for executor in world.executors.values():
        executor.update(started_at=world.at, heartbeat_at=world.at)
    plan = [(s, "batch") for s in range(4, int(seconds), 47)] + [
        (s, "scope") for s in range(9, int(seconds), 61)
    ]
    plan += [(s, "kill") for s in range(148, int(seconds) - 60, 282)]
    plan += [(s, "drain") for s in range(242, int(seconds) - 40, 423)]
    for moment, what in sorted(plan):
        world.step(now - seconds + moment)
        live = [e for e, row in world.executors.items() if row["state"] == "live" and row["role"] == "worker"]
        if what == "batch":
            world.batch(world.random.randrange(20, 60))
        elif what == "scope":
            world.scope()
        elif live and what == "kill":
            world.kill(live[0])
        elif live:
            world.drain(live[-1])
    world.step(now)
    return world


def crowd(workflows: int = 10_000, executors: int = 50, window_seconds: float = 60.0) -> World:
    """Many workflows on many executors within a window, as bars and (what is beyond) as counts."""
    world = World(workers=executors, mean_seconds=0.6)
    now = world.at
    world.at = now - window_seconds
    for executor in world.executors.values():
        executor.update(started_at=world.at - 300, heartbeat_at=world.at)
    world.batch(workflows)
    world.step(now)
    return world


def iso(at: float | None) -> str | None:
    """ISO 8601, as the API has times."""
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat()
