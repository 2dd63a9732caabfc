"""What is measured of a takeover. Each scenario takes a running stack and returns seconds by name."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from holdfast.installations.supervised import is_alive
from tests.chaos.ground import patiently
from tests.chaos.hands import off_the_network
from tests.support.compose_stack import ComposeStack
from tests.support.stack import Member, Stack, wait_for

Samples = dict[str, list[float]]
Say = Callable[[str], None]

# F(32) takes about half a second alone, F(34) more than one; three F(37) are on no machine done within
# the drain, and three F(36) were on a quiet one.
SHORT, MIDDLE, LONG, LONGEST = 32, 34, 36, 37
DRAIN_SECONDS = 2.0
LEASE_SECONDS = 5.0


def add(samples: Samples, name: str, value: float) -> None:
    """One more value."""
    samples.setdefault(name, []).append(round(value, 4))


def epoch(column: str) -> str:
    """SQL: a timestamp as seconds since 1970."""
    return f"extract(epoch FROM {column})::float8"


def cancel(stack: Stack, workflow_id: str) -> None:
    """Ends a workflow, unless it has ended by itself; a busy machine may say 503 first."""

    def done() -> bool:
        return stack.request("POST", f"/workflows/{workflow_id}/cancel").status_code in (200, 202, 204, 409)

    wait_for(done, 30, f"{workflow_id} cancelled", pause_seconds=0.3)


def main_pid(stack: Stack, member: Member) -> int:
    """The process to kill, as this host counts it."""
    if not isinstance(stack, ComposeStack):
        return member.pid
    # The one under the container's init: a kill by the engine is a manual stop, and what is started inside
    # comes to its turn seconds later beside the CPU work.
    init = stack.docker("inspect", "--format", "{{.State.Pid}}", member.container).strip()
    return int(Path(f"/proc/{init}/task/{init}/children").read_text("ascii").split()[0])


@dataclass(frozen=True)
class Victim:
    """A worker in the middle of numbers of a batch, and the process to signal."""

    member: Member
    pid: int
    batch_id: str


def workers_ready(stack: Stack) -> list[Member]:
    """All workers, once all are live again."""
    return stack.members("worker", stack.worker_count, 60)


def victim_at_work(stack: Stack, numbers: list[int], turn: int) -> Victim:
    """A worker in the middle of a new batch, another at each turn, so that none restarts slowly."""
    members = sorted(workers_ready(stack), key=lambda m: m.name)
    # Before the work begins: the engine takes its time to say.
    pids = {member.executor_id: main_pid(stack, member) for member in members}
    batch_id = stack.start_batch(numbers=numbers)
    order = members[turn % len(members) :] + members[: turn % len(members)]

    def find() -> Member | None:
        running = {number["executor_id"] for number in stack.running(batch_id)}
        return next((member for member in order if member.executor_id in running), None)

    member = wait_for(find, 30, f"a worker in the middle of {batch_id}", pause_seconds=0.02)
    return Victim(member, pids[member.executor_id], batch_id)


def left_work(stack: Stack, victim: Victim) -> bool:
    """Whether its end took anything of the batch; in this order, for it may move in between."""
    executor_id = victim.member.executor_id
    if any(row["executor_id"] == executor_id for row in stack.running(victim.batch_id)):
        return True
    statement = f"SELECT 1 AS one FROM ops.handovers WHERE from_executor = '{executor_id}' LIMIT 1"
    return bool(stack.query(statement))


def moved(stack: Stack, victim: Victim, kind: str) -> list[dict[str, Any]]:
    """The numbers that left a worker, once all are claimed by others."""
    statement = (
        f"SELECT workflow_id, reason, {epoch('released_at')} AS released, {epoch('claimed_at')} AS claimed"
        f" FROM ops.handovers WHERE from_executor = '{victim.member.executor_id}' AND kind = '{kind}'"
        " AND workflow_name = 'fibonacci.number'"
    )

    def all_claimed() -> list[dict[str, Any]] | None:
        rows = stack.query(statement)
        return rows if all(row["claimed"] for row in rows) else None

    return wait_for(
        all_claimed,
        60,
        f"the work of {victim.member.executor_id} claimed by others",
        pause_seconds=0.1,
    )


def ran_again(stack: Stack, batch_id: str, rows: list[dict[str, Any]], since: float) -> list[float]:
    """Seconds from ``since`` until the recorded run of each moved number began."""
    batch = stack.finished_batch(batch_id, 180)
    began = {f"{batch_id}-{n['index']}": n["started_at"] for n in batch["results"]}
    starts = [datetime.fromisoformat(began[row["workflow_id"]]).timestamp() for row in rows]
    return [start - since for start in starts if start > since]


def kill(
    stack: Stack, samples: Samples, runs: int, *, numbers: int, prefix: str, say: Say, seed: int = 1
) -> None:
    """SIGKILL of a worker in the middle of steps: until claimed by a peer, until the body runs again."""
    generator = random.Random(seed)
    number = (
        SHORT if not isinstance(stack, ComposeStack) else MIDDLE if numbers > stack.worker_count else LONG
    )
    first = f"{prefix}: first claimed by a peer"
    for run in range(2 * runs):
        if len(samples.get(first, [])) == runs:
            return
        victim = victim_at_work(stack, [number] * numbers, run)
        time.sleep(generator.uniform(0, 0.3))
        killed_at = time.time()  # by this host's clock, which is the database's too
        os.kill(victim.pid, signal.SIGKILL)
        if not left_work(stack, victim):
            # It had just finished: nothing of this batch was lost, and the run does not count.
            stack.finished_batch(victim.batch_id, 180)
            continue
        rows = moved(stack, victim, "takeover")
        add(samples, first, min(row["claimed"] for row in rows) - killed_at)
        add(samples, f"{prefix}: all claimed by peers", max(row["claimed"] for row in rows) - killed_at)
        again = ran_again(stack, victim.batch_id, rows, killed_at)
        if again:
            add(samples, f"{prefix}: a step's body runs again", min(again))
            add(samples, f"{prefix}: every step's body runs again", max(again))
        say(f"{prefix} {len(samples[first])}/{runs}: claimed after {rows[0]['claimed'] - killed_at:.3f} s")


def _until_claimed(
    stack: Stack,
    samples: Samples,
    runs: int,
    name: str,
    harm: Callable[[Victim], AbstractContextManager[None]],
    *,
    kind: str = "takeover",
    less_seconds: float = 0.0,
    say: Say,
) -> None:
    """Harm to a worker in the middle of long numbers, until peers have claimed all that it ran."""
    for run in range(2 * runs):
        if len(samples.get(name, [])) == runs:
            return
        victim = victim_at_work(stack, [LONGEST] * 3, run)
        begun = time.time()
        with harm(victim):
            rows = moved(stack, victim, kind) if left_work(stack, victim) else []
        if rows:
            add(samples, name, max(row["claimed"] for row in rows) - begun - less_seconds)
            say(f"{name} {len(samples[name])}/{runs}: {samples[name][-1]:.3f} s")
        cancel(stack, victim.batch_id)


def pause(stack: Stack, samples: Samples, runs: int, *, say: Say) -> None:
    """SIGSTOP of a worker in the middle of steps, until its work is claimed."""

    @contextmanager
    def stopped(victim: Victim) -> Iterator[None]:
        os.kill(victim.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(victim.pid, signal.SIGCONT)

    _until_claimed(stack, samples, runs, "SIGSTOP: claimed by a peer", stopped, say=say)


def cut(stack: ComposeStack, samples: Samples, runs: int, *, say: Say) -> None:
    """A worker's container taken off the network in the middle of steps, until its work is claimed."""
    name = "network cut: claimed by a peer"
    _until_claimed(stack, samples, runs, name, lambda victim: off_the_network(stack, victim.member), say=say)


def terminate(stack: Stack, samples: Samples, runs: int, *, say: Say) -> None:
    """SIGTERM inside a step longer than the drain, until peers run it; and the stop of an idle worker."""

    @contextmanager
    def drained(victim: Victim) -> Iterator[None]:
        os.kill(victim.pid, signal.SIGTERM)
        time.sleep(DRAIN_SECONDS)
        yield

    name = "SIGTERM: claimed by a peer after the drain's limit"
    _until_claimed(stack, samples, runs, name, drained, kind="handover", less_seconds=DRAIN_SECONDS, say=say)
    for run in range(runs):
        members = workers_ready(stack)
        member = members[run % len(members)]
        wait_for(lambda: not stack.executors()[member.executor_id]["in_flight"], 30, "an idle worker")  # noqa: B023
        pid = main_pid(stack, member)
        begun = time.time()
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not is_alive(pid), 30, f"end of {member.name}", pause_seconds=0.005)  # noqa: B023
        add(samples, "SIGTERM: an idle worker ends", time.time() - begun)
        say(f"idle stop {run + 1}/{runs}: {samples['SIGTERM: an idle worker ends'][-1]:.3f} s")


def outage(stack: Stack, samples: Samples, runs: int, *, seconds: float, say: Say) -> None:
    """PostgreSQL away: until the slowest of 25 blocked workflows goes on after it is started again."""
    name = f"PostgreSQL away {seconds:g} s: the slowest of 25 workflows goes on"
    for run in range(runs):
        workers_ready(stack)
        ids = [
            patiently(lambda: stack.post("/scope/class", {"steps": 400, "step_seconds": 0.2}))["workflow_id"]
            for _ in range(25)
        ]
        time.sleep(2)
        with stack.postgres_down():
            time.sleep(seconds)
        # The server's start is before it accepts connections: what is measured is an upper bound.
        back = wait_for(lambda: _postmaster(stack), 30, "PostgreSQL")
        listed = ", ".join(f"'{workflow_id}'" for workflow_id in ids)
        statement = (
            "SELECT workflow_uuid AS id, min(started_at_epoch_ms) / 1000.0 AS next"
            " FROM dbos.operation_outputs"
            f" WHERE workflow_uuid IN ({listed}) AND started_at_epoch_ms > {back * 1000:.0f} GROUP BY 1"
        )

        def going_on(statement: str = statement) -> list[dict[str, Any]] | None:
            rows = stack.query(statement)
            return rows if len(rows) == 25 else None

        rows = wait_for(going_on, 90, "all 25 go on")
        add(samples, name, max(float(row["next"]) for row in rows) - back)
        for workflow_id in ids:
            cancel(stack, workflow_id)
        say(f"outage {run + 1}/{runs}: {samples[name][-1]:.3f} s")
        time.sleep(LEASE_SECONDS + 1)


def _postmaster(stack: Stack) -> float | None:
    try:
        return float(stack.query(f"SELECT {epoch('pg_postmaster_start_time()')} AS at")[0]["at"])
    except Exception:  # whatever a backend raises while PostgreSQL is not there yet
        return None


def idle_cost(stack: Stack, samples: Samples, *, seconds: float, say: Say) -> None:
    """Transactions per second per executor of an idle stack."""
    workers_ready(stack)
    time.sleep(3)
    begun, before = time.monotonic(), transactions(stack)
    time.sleep(seconds)
    # Both queries count their own transactions: connect, query; two each.
    rate = (transactions(stack) - before - 2) / (time.monotonic() - begun)
    per_executor = rate / (stack.worker_count + 1)
    say(f"idle: {per_executor:.2f} transactions per second per executor")
    add(samples, "idle: transactions per second per executor, everything", per_executor)


def transactions(stack: Stack) -> int:
    """Transactions that the database has seen."""
    statement = "SELECT xact_commit + xact_rollback AS n FROM pg_stat_database WHERE datname = 'holdfast'"
    return int(stack.query(statement)[0]["n"])
