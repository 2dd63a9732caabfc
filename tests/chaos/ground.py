"""What a fault works on, and what several faults need."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx

from holdfast.statuses import TERMINAL
from tests.chaos.load import JournalFile, Load
from tests.support.stack import Member, NotNowError, Stack, wait_for

T = TypeVar("T")
GRACE_SECONDS = 20.0
EXIT_SECONDS = 15.0
FENCED = 75
MIDDLE = [31, 32, 33] * 4
"""A batch that two CPUs compute for two seconds and more, so that a fault hits them in its middle."""

Seen = dict[str, Any]
Fault = Callable[..., Seen]


def patiently(ask: Callable[[], T], seconds: float = 60.0) -> T:
    """What ``ask`` returns once it does: on a busy machine a 503 may come a while after a fault, too."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except (AssertionError, NotNowError, httpx.TransportError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


class Ground:
    """What a fault works on."""

    def __init__(self, stack: Stack, load: Load, journal: JournalFile) -> None:
        self.stack = stack
        self.load = load
        self.journal = journal
        self.over_at = time.monotonic()
        """When the harm was over, monotonic: recovery counts from here, whatever the fault looks at after."""
        self._posts = 0

    def over(self) -> None:
        """The harm is done, or undone; the last call of a fault counts."""
        self.over_at = time.monotonic()

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
        members = sorted(self.workers(), key=lambda member: member.name)
        return members[index % len(members)]

    def workers(self) -> list[Member]:
        """All workers, once they are ready."""
        return patiently(self.stack.workers)

    def ids(self) -> set[str]:
        """Executor ids of everyone, once all are ready."""
        return {member.executor_id for member in [*self.workers(), patiently(self.stack.api)]}

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

    def dead() -> bool:
        return bool(patiently(ground.stack.executors)[executor_id]["state"] != "live")

    wait_for(dead, 20, f"{executor_id} declared dead")


def replaced_or_unharmed(ground: Ground, victim: Member) -> Seen:
    """Waits until all is well again. A victim declared dead has ended as fenced, any other has not ended."""
    row = patiently(ground.stack.executors)[victim.executor_id]
    if row["state"] == "live":
        complete(ground)
        row = patiently(ground.stack.executors)[victim.executor_id]
    if row["state"] == "live":
        assert ground.stack.find_exit(victim) is None, "an executor that nobody took over ended"
        return {"replaced": False}
    code = ground.stack.exited(victim, EXIT_SECONDS).code
    assert code == FENCED, f"an executor declared dead ({row['reason']}) ended with {code}"
    complete(ground)
    return {"replaced": True, **gone(ground, victim.executor_id)}


def complete(ground: Ground) -> None:
    """Waits until every process is there again."""
    ground.ids()
