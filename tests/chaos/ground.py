"""What a fault works on, and what several faults need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.chaos.load import JournalFile, Load
from tests.support.stack import TERMINAL, Member, Stack, wait_for

GRACE_SECONDS = 20.0
MIDDLE = [29, 30, 31, 30, 29, 31]
"""A batch that keeps workers busy for a few seconds."""

Seen = dict[str, Any]
Fault = Callable[..., Seen]


class Ground:
    """What a fault works on."""

    def __init__(self, stack: Stack, load: Load, journal: JournalFile) -> None:
        self.stack = stack
        self.load = load
        self.journal = journal
        self._posts = 0

    def key(self, what: str) -> str:
        """A key of its own."""
        self._posts += 1
        return f"{what}-{self._posts}"

    def batch(self, numbers: list[int]) -> str:
        """A journaled batch that must be accepted."""
        body = {"numbers": numbers}
        key = self.key("fault-batch")
        answer = wait_for(lambda: self.load.post("/fibonacci/batches", body, key), 20, "a batch accepted")
        return str(answer["workflow_id"])

    def worker(self, index: int) -> Member:
        """One of the workers, in the order of their names."""
        members = sorted(self.stack.workers(), key=lambda member: member.name)
        return members[index % len(members)]

    def succeeded(self, batch_id: str, seconds: float) -> None:
        """Waits for the end of a batch, which must be success; the API may be away meanwhile."""

        def status() -> str | None:
            answer = self.stack.request("GET", f"/fibonacci/batches/{batch_id}")
            found = answer.json()["status"] if answer.status_code == 200 else None
            return found if found in TERMINAL else None

        ended = wait_for(status, seconds, f"end of {batch_id}", pause_seconds=0.2)
        assert ended == "SUCCESS", f"{batch_id}: {ended}"


def gone(ground: Ground, executor_id: str) -> Seen:
    """How long the work of a lost executor was nobody's."""
    rows = ground.stack.query(
        "SELECT count(*) AS n, extract(epoch FROM max(released_at - lost_at))::float8 AS seconds"
        f" FROM ops.handovers WHERE from_executor = '{executor_id}'"
    )
    return {"workflows": rows[0]["n"], "lost_to_released_seconds": rows[0]["seconds"]}


def declared_dead(ground: Ground, executor_id: str) -> None:
    """Waits for the verdict."""
    wait_for(
        lambda: ground.stack.executors()[executor_id]["state"] != "live", 20, f"{executor_id} declared dead"
    )


def complete(ground: Ground) -> None:
    """Waits until every process is there again."""
    wait_for(lambda: ground.stack.ready_members("api"), 60, "the API")
    ground.stack.workers()
    ground.stack.api()
