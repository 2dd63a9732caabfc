"""Schedules and child programs across two worker processes, which are killed, and all down for a while."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from holdfast.installations.supervised import is_alive, start_ticks
from tests.support.native_stack import NativeStack
from tests.support.stack import running_stack, wait_for

MODULE = """
import os, subprocess, time
from datetime import timedelta
from holdfast.durable.registry import Queue, Schedule, register, step, workflow
from dbos import DBOS

OUT = os.environ["SCHEDULES_OUT"]

def mark(what):
    with open(os.path.join(OUT, what), "a") as file:
        file.write(f"{time.time():.3f} {os.getpid()} {DBOS.workflow_id}\\n")

def ticking(name):
    @step(f"{name}.work")
    def work(seconds: float) -> None:
        mark(f"{name}-begun")
        time.sleep(seconds)
        mark(f"{name}-ended")

    @workflow(name)
    def tick(at: str) -> str:
        work(2.4 if name != "s.soon" else 0.0)
        return at

    return tick

@step("s.program")
def program() -> None:
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    subprocess.run(["sh", "-c", "sleep 600 & sleep 600"], check=False)

@workflow("s.tool")
def tool() -> None:
    program()

@DBOS.workflow(name="s.plain")
def plain(at, context):
    mark("plain")

skip, buffered, soon = ticking("s.skip"), ticking("s.buffered"), ticking("s.soon")
register(
    Queue("s-ticks", [skip, buffered, soon]),
    Queue("s-tools", [tool]),
    schedules=[
        Schedule("s-skip", skip, "* * * * * *", overlap="skip"),
        Schedule("s-buffered", buffered, "* * * * * *", overlap="buffer_one"),
        Schedule("s-soon", soon, "*/5 * * * * *", catch_up=timedelta(minutes=1), time_zone="Asia/Kolkata"),
        Schedule("s-plain", plain, "*/2 * * * * *"),
    ],
)
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeStack]:
    """Two workers."""
    out = tmp_path_factory.mktemp("out")
    (out / "scheduled_module.py").write_text(MODULE, "utf-8")
    with running_stack(
        NativeStack(
            tmp_path_factory.mktemp("schedules"),
            HOLDFAST_MODULES="scheduled_module",
            PYTHONPATH=str(out),
            SCHEDULES_OUT=str(out),
        )
    ) as started:
        started.out = out  # type: ignore[attr-defined]
        yield started


def marks(stack: NativeStack, what: str) -> list[tuple[float, str]]:
    file: Path = stack.out / what  # type: ignore[attr-defined]
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    return [(float(line.split()[0]), line.split()[2]) for line in lines]


def counts(stack: NativeStack, name: str) -> tuple[int, int]:
    (found,) = [each for each in stack.get("/schedules")["schedules"] if each["name"] == name]
    return found["missed"], found["skipped"]


@pytest.mark.parametrize("name", ["s.skip", "s.buffered"])
def test_ticks_that_take_longer_than_their_interval_never_overlap(stack: NativeStack, name: str) -> None:
    """Every second one that takes 2.4 s; one worker is killed meanwhile."""
    wait_for(lambda: len(marks(stack, f"{name}-ended")) >= 3, 30, "ticks run")
    stack.crash(stack.workers()[0])
    seen = len(marks(stack, f"{name}-ended"))
    wait_for(lambda: len(marks(stack, f"{name}-ended")) >= seen + 4, 60, "and go on")
    # A run whose worker died begins again, and has no other beside it.
    events = [(at, run, kind) for kind in ("begun", "ended") for at, run in marks(stack, f"{name}-{kind}")]
    for (_, before, kind), (_, after, then) in pairwise(sorted(events)):
        assert kind == "ended" or before == after, f"{after} {then} beside {before}"
    assert counts(stack, name.replace(".", "-"))[1] >= 3
    waiting = stack.query(
        "SELECT count(*) AS n FROM dbos.workflow_status"
        f" WHERE name = '{name}' AND status IN ('ENQUEUED', 'PENDING', 'DELAYED')"
    )
    assert waiting[0]["n"] <= 2


def test_after_all_workers_were_down_ticks_are_caught_up_or_counted(stack: NativeStack) -> None:
    wait_for(lambda: marks(stack, "s.soon-ended"), 15, "a first tick")
    stack.hold(True)
    try:
        for worker in stack.workers():
            stack.kill(worker)
        down_at = time.time()
        time.sleep(12)
    finally:
        stack.hold(False)
    up_at = time.time()
    stack.workers()
    ticks = range(int(down_at) // 5 * 5 + 5, int(up_at), 5)

    def caught_up() -> bool:
        rows = stack.query(
            "SELECT DISTINCT extract(epoch FROM substr(workflow_uuid, 14)::timestamptz)::bigint AS at"
            " FROM dbos.workflow_status WHERE schedule_name = 's-soon'"
        )
        return {row["at"] for row in rows} >= set(ticks)

    wait_for(caught_up, 20, "every tick of the outage has run")
    assert counts(stack, "s-soon") == (0, 0)
    wait_for(lambda: counts(stack, "s-plain")[0] >= 4, 30, "a plain schedule's missed ticks are counted")
    text = stack.http.get(f"{stack.url}/metrics").text
    assert 'holdfast_schedule_missed_ticks_total{schedule="s-plain"}' in text
    assert 'holdfast_schedule_last_tick_age_seconds{schedule="s-soon"}' in text
    assert marks(stack, "plain")


def test_a_killed_workers_programs_end_with_it(stack: NativeStack) -> None:
    mine = f"SCHEDULES_OUT={stack.out}".encode()  # type: ignore[attr-defined]

    def programs() -> dict[int, int | None]:
        found = {}
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                command = (entry / "cmdline").read_bytes().split(b"\0")
                if command[:2] == [b"sleep", b"600"] and mine in (entry / "environ").read_bytes():
                    found[int(entry.name)] = start_ticks(int(entry.name))
        return found

    workflow_id = stack.post("/workflows", {"workflow": "s.tool", "arguments": {}})["workflow_id"]
    first = wait_for(lambda: len(found := programs()) == 3 and found, 20, "its programs run")
    victim = stack.get(f"/workflows/{workflow_id}")["executor_id"]
    worker = next(member for member in stack.workers() if member.executor_id == victim)
    stack.kill(worker)
    wait_for(lambda: not any(is_alive(*each) for each in first.items()), 5, "they end", pause_seconds=0.02)
    again = wait_for(lambda: len(found := programs()) == 3 and found, 30, "the second copy's run")
    assert not set(again) & set(first)
    stack.post(f"/workflows/{workflow_id}/cancel")
    for pid in again:
        os.kill(pid, 9)
