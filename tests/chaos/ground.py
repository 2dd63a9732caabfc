"""The context of a fault, and helpers that several faults share."""

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
"""A batch that keeps two CPUs busy for two seconds or more, so that a fault hits it in the middle."""

Seen = dict[str, Any]
Fault = Callable[..., Seen]


def patiently(ask: Callable[[], T], seconds: float = 60.0) -> T:
    """Retries ``ask`` and returns its first result: on a busy machine, a 503 may still come after a fault."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except (AssertionError, NotNowError, httpx.TransportError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


class Ground:
    """The context of a fault: stack, load and journal."""

    def __init__(self, stack: Stack, load: Load, journal: JournalFile) -> None:
        self.stack = stack
        self.load = load
        self.journal = journal
        self.over_at = time.monotonic()
        """The monotonic time of the harm's end, from which recovery counts, whatever is checked later."""
        self._posts = 0

    def over(self) -> None:
        """Records that the harm is done or undone. The last call of a fault counts."""
        self.over_at = time.monotonic()

    def key(self, what: str) -> str:
        """Returns a unique key."""
        self._posts += 1
        return f"{what}-{self._posts}"

    def batch(self, numbers: list[int]) -> str:
        """Starts a journaled batch that must be accepted. Returns its id."""
        body = {"numbers": numbers}
        key = self.key("fault-batch")
        answer = wait_for(lambda: self.load.post("/fibonacci/batches", body, key), 20, "a batch accepted")
        return str(answer["workflow_id"])

    def worker(self, index: int) -> Member:
        """Returns one of the workers, in the order of their names."""
        members = sorted(self.workers(), key=lambda member: member.name)
        return members[index % len(members)]

    def workers(self) -> list[Member]:
        """Waits until all workers are ready and returns them."""
        return patiently(self.stack.workers)

    def ids(self) -> set[str]:
        """Waits until all processes are ready and returns their executor ids."""
        return {member.executor_id for member in [*self.workers(), patiently(self.stack.api)]}

    def succeeded(self, batch_id: str, seconds: float) -> None:
        """Waits until a batch ends with success, through outages of the API."""

        def status() -> str | None:
            answer = self.stack.request("GET", f"/fibonacci/batches/{batch_id}")
            found = answer.json()["status"] if answer.status_code == 200 else None
            return found if found in TERMINAL else None

        ended = wait_for(status, seconds, f"end of {batch_id}", pause_seconds=0.2)
        assert ended == "SUCCESS", f"{batch_id}: {ended}"


def gone(ground: Ground, executor_id: str) -> Seen:
    """Returns the seconds for which the work of a lost executor had no owner."""
    rows = ground.stack.query(
        "SELECT count(*) AS n, extract(epoch FROM max(released_at - lost_at))::float8 AS seconds"
        f" FROM ops.handovers WHERE from_executor = '{executor_id}'"
    )
    return {"workflows": rows[0]["n"], "lost_to_released_seconds": rows[0]["seconds"]}


def declared_dead(ground: Ground, executor_id: str) -> None:
    """Waits until the executor is declared dead."""

    def dead() -> bool:
        return bool(patiently(ground.stack.executors)[executor_id]["state"] != "live")

    wait_for(dead, 20, f"{executor_id} declared dead")


def replaced_or_unharmed(ground: Ground, victim: Member) -> Seen:
    """Waits for the recovery. A victim declared dead must have ended as fenced; any other must still run."""
    row = patiently(ground.stack.executors)[victim.executor_id]
    if row["state"] == "live":
        complete(ground)
        row = patiently(ground.stack.executors)[victim.executor_id]
    if row["state"] == "live":
        assert ground.stack.find_exit(victim) is None, "an executor ended that no peer took over"
        return {"replaced": False}
    code = ground.stack.exited(victim, EXIT_SECONDS).code
    assert code == FENCED, f"an executor declared dead ({row['reason']}) ended with {code}"
    complete(ground)
    return {"replaced": True, **gone(ground, victim.executor_id)}


def complete(ground: Ground) -> None:
    """Waits until every process runs again."""
    ground.ids()
