"""Faults during work that waits or hangs, in all kinds of waits (`tests.support.waiting_workflows`)."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos import hands
from tests.chaos.endings import watched
from tests.chaos.ground import Ground, Seen, declared_dead, gone
from tests.chaos.load import now
from tests.support import waiting_workflows as waiting
from tests.support.failover import read_only
from tests.support.native_stack import NativeStack
from tests.support.stack import ROOT, wait_for
from tests.support.waits_under_faults import Round, client_of

_SAGAS = 5


@contextmanager
def _waits(ground: Ground, sleep_seconds: float) -> Iterator[Round]:
    """Starts waits of every kind and style. At the end, releases them and checks the results."""
    assert isinstance(ground.stack, NativeStack)
    with client_of(ground.stack) as client:
        made = Round(ground.stack, client, ground.key("waits"), sleep_seconds)
        try:
            made.begin()
            yield made
            wrong = made.settle()
        finally:
            made.cancel()
        assert not wrong, "; ".join(wrong)


def kill_in_waits(ground: Ground, *, worker: int, delay: float) -> Seen:
    with _waits(ground, 6.0):
        victim = ground.worker(worker)
        time.sleep(delay)
        with watched(ground, victim):
            ground.stack.crash(victim)
            ground.over()
        declared_dead(ground, victim.executor_id)
    return gone(ground, victim.executor_id)


def blocked_interpreter(ground: Ground) -> Seen:
    """A step holds its interpreter's lock, for hours unless it is ended."""
    with _waits(ground, 14.0) as made:
        blocker = ground.key("blocker")
        began, members = time.monotonic(), ground.workers()
        made.enqueue("waiting.blocker", waiting.RUNNING, blocker, 1)
        where = f"SELECT executor_id AS id FROM dbos.workflow_status WHERE workflow_uuid = '{blocker}'"
        executor_id = wait_for(lambda: ground.stack.query(where)[0]["id"], 10, "somebody runs the blocker")
        (victim,) = [member for member in members if member.executor_id == executor_id]
        with watched(ground, victim):
            ground.stack.exited(victim, 25)
            ground.over()
        ground.stack.finished(blocker, 30)
        seconds = round(time.monotonic() - began, 1)
    return {"blocked_to_done_seconds": seconds, **gone(ground, victim.executor_id)}


def hung_step(ground: Ground) -> Seen:
    """Hung steps: one with a timeout, and one in each worker that cannot be interrupted and is cancelled."""
    stack = ground.stack
    assert isinstance(stack, NativeStack)
    key = ground.key("hung")
    with client_of(stack) as client:
        made = Round(stack, client, key, 0.0)
        made.enqueue("waiting.typed.endless", waiting.RUNNING, f"{key}-endless")
        stuck = [f"{key}-stuck-{number}" for number in range(stack.worker_count)]
        for each in stuck:
            made.enqueue("waiting.typed.stuck", waiting.ALONE, each, 30.0)
        ids = ", ".join(f"'{each}'" for each in stuck)
        running = (
            f"SELECT 1 AS n FROM dbos.workflow_status WHERE status = 'PENDING' AND workflow_uuid IN ({ids})"
        )
        wait_for(lambda: len(stack.query(running)) == len(stuck), 15, "all of them are stuck")
        for each in stuck:
            stack.post(f"/workflows/{each}/cancel")
        ground.over()
        cancelled = time.monotonic()
        made.enqueue("waiting.quick", waiting.ALONE, f"{key}-next")
        stack.finished(f"{key}-next", 15)
        freed = time.monotonic() - cancelled
        ended = wait_for(
            lambda: stack.get(f"/workflows/{key}-endless")["status"] == "ERROR", 15, "its timeout"
        )
    assert ended
    assert freed < 3, f"the slot was freed after {freed:.1f} s"
    return {"slot_freed_seconds": round(freed, 2)}


def read_only_server(ground: Ground, *, seconds: float) -> Seen:
    """A server refuses every write, during waits and during work that undoes its effects at any error."""
    stack = ground.stack
    key, begun = ground.key("saga"), now()
    with _waits(ground, 8.0) as made:
        for number in range(_SAGAS):
            made.enqueue("waiting.saga", waiting.RUNNING, f"{key}-{number}", 20)
        time.sleep(0.5)
        with read_only(lambda statement: hands.as_superuser(stack, statement)):
            time.sleep(seconds)
        ground.over()
        ground.journal.write("downtime", **{"from": begun, "to": now()}, reason="PostgreSQL only reads")
        outputs = [stack.finished(f"{key}-{number}", 40)["output"] for number in range(_SAGAS)]
    assert outputs == ["charged"] * _SAGAS, outputs
    return {"sagas": _SAGAS}


def promotion(ground: Ground) -> Seen:
    """A separate primary dies and its standby is promoted, during 22 sagas of a separate worker."""
    file = "tests/integration/dbos_adapter/test_failover.py"
    test = f"{file}::test_a_promoted_standby_refunds_nobody_and_loses_nothing"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", test, "-q", "-p", "no:cacheprovider"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
    )
    ground.over()
    assert done.returncode == 0, done.stdout[-1500:]
    return {"sagas": 22}
