"""Limits and cancels on real processes: bursts, a step that cannot be interrupted, its process replaced."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.native_stack import NativeStack
from tests.support.stack import running_stack, wait_for

MODULE = """
import os, time
from dbos import DBOS
from holdfast.durable.registry import Queue, register, step, workflow

OUT = os.environ["LIMITS_OUT"]

def mark(what):
    with open(os.path.join(OUT, "marks"), "a") as file:
        file.write(f"{time.time():.6f} {what} {DBOS.workflow_id}\\n")

@step("l.work")
def work(seconds: float) -> None:
    mark("begins")
    time.sleep(seconds)
    mark("ends")

@workflow("l.one")
def one(seconds: float) -> None:
    work(seconds)

@workflow("l.nap")
def nap(seconds: float) -> None:
    DBOS.sleep(seconds)

@workflow("l.many")
def many(seconds: float) -> None:
    work(seconds)

register(Queue("l-one", [one, nap], at_once=1), Queue("l-many", [many], at_once=4))
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("limits")
    (directory / "limits_of_queues.py").write_text(MODULE)
    return directory


@pytest.fixture(scope="module")
def stack(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeStack]:
    started = NativeStack(
        tmp_path_factory.mktemp("stack"),
        workers=1,
        HOLDFAST_MODULES="limits_of_queues",
        HOLDFAST_ABANDONED_THREADS_LIMIT="2",
        PYTHONPATH=f"{out}:{os.environ.get('PYTHONPATH', '')}",
        LIMITS_OUT=str(out),
    )
    with running_stack(started):
        yield started


def start(stack: NativeStack, workflow: str, seconds: float) -> str:
    answer = stack.post("/workflows", {"workflow": workflow, "arguments": {"seconds": seconds}})
    return str(answer["workflow_id"])


def cancel(stack: NativeStack, workflow_id: str) -> None:
    assert stack.request("POST", f"/workflows/{workflow_id}/cancel").is_success


def marks(out: Path, what: str) -> dict[str, float]:
    """When the steps of workflows began or ended."""
    if not (out / "marks").exists():
        return {}
    lines = [line.split() for line in (out / "marks").read_text().splitlines()]
    return {workflow_id: float(at) for at, kind, workflow_id in lines if kind == what}


def test_a_burst_of_four_clients_runs_one_at_a_time(stack: NativeStack, out: Path) -> None:
    """Red before: up to four at a time."""
    with ThreadPoolExecutor(4) as clients:
        ids = list(clients.map(lambda _: start(stack, "l.one", 0.1), range(60)))
    wait_for(lambda: len(marks(out, "ends")) == 60, 60, "all end")
    begun, ended = marks(out, "begins"), marks(out, "ends")
    in_order = sorted(ids, key=begun.__getitem__)
    overlaps = [a for a, b in itertools.pairwise(in_order) if begun[b] < ended[a]]
    assert overlaps == []


@pytest.mark.parametrize("kind", ["l.one", "l.nap"])
def test_a_cancel_frees_the_slot(stack: NativeStack, out: Path, kind: str) -> None:
    """Red before: the next one began when the cancelled one's 20 s were over."""
    first = start(stack, kind, 20)
    wait_for(
        lambda: stack.query(
            f"SELECT FROM dbos.workflow_status WHERE workflow_uuid = '{first}' AND status = 'PENDING'"
        ),
        10,
        "it runs",
    )
    time.sleep(0.5)
    following = start(stack, "l.one", 0)
    cancelled = time.time()
    cancel(stack, first)
    wait_for(lambda: following in marks(out, "begins"), 10, "the next one begins")
    assert marks(out, "begins")[following] - cancelled < 15, "it waited for the 20 s of the other's step"


def test_a_process_with_too_many_abandoned_threads_is_replaced(stack: NativeStack, out: Path) -> None:
    before = stack.workers()[0]
    for _ in range(2):
        ids = [start(stack, "l.many", 60) for _ in range(2)]
        wait_for(lambda found=ids: set(found) <= marks(out, "begins").keys(), 10, "they run")  # type: ignore[misc]
        for workflow_id in ids:
            cancel(stack, workflow_id)
    assert stack.exited(before, 15).code == 0
    after = stack.workers()[0]
    assert after.pid != before.pid
    following = start(stack, "l.many", 0)
    wait_for(lambda: following in marks(out, "ends"), 10, "the new process works")
    assert stack.workers()[0].pid == after.pid
    row = stack.query(f"SELECT state FROM ops.executors WHERE executor_id = '{before.executor_id}'")
    assert [found["state"] for found in row] == ["drained"]
