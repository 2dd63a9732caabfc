"""The check for CPU children that outlive their parent finds one, and does not take a child for one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.compute.child_process import start_child
from holdfast.compute.cpu_pool import CpuPool
from holdfast.compute.step_processes import _started
from holdfast.errors import StepProcessDied
from holdfast.recovery.watchdog import Watchdog
from holdfast.settings import Settings
from tests.chaos import endings
from tests.support.compose_stack import ComposeStack
from tests.support.executors import identity
from tests.support.native_stack import outliving
from tests.support.stack import Exit, Member, wait_for

# Starts what looks like a CPU child of it, bound to nobody's life, and says its pid.
_CARELESS = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-S", sys.argv[1], "0", str(os.getpid())])
print(child.pid, flush=True)
time.sleep(60)
"""
_CARING = """
import os, sys, time
from holdfast.compute.cpu_pool import CpuPool
pool = CpuPool(2)
pool.wait_ready(30)
print(*pool.pids(), flush=True)
time.sleep(60)
"""


def started(code: str, *arguments: str) -> tuple[subprocess.Popen[str], list[int]]:
    parent = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    return parent, [int(pid) for pid in parent.stdout.readline().split()]


def test_a_child_that_lives_on_is_seen(tmp_path: Path) -> None:
    endless = tmp_path / "cpu_child.py"
    endless.write_text("import time; time.sleep(60)\n", "utf-8")
    parent, (child,) = started(_CARELESS, str(endless))
    try:
        assert outliving(parent.pid) == [], "its parent lives"
        parent.kill()
        parent.wait()
        assert outliving(parent.pid) == [child]
    finally:
        os.kill(child, signal.SIGKILL)
    wait_for(lambda: not outliving(parent.pid), 5, "end of the child")


def test_children_of_a_pool_end_with_their_parent() -> None:
    parent, children = started(_CARING)
    assert len(children) == 2
    parent.kill()
    parent.wait()
    wait_for(lambda: not outliving(parent.pid), 2, "end of the children")


def test_children_of_the_living_are_not_taken_for_others() -> None:
    pool = CpuPool(1)
    try:
        assert pool.wait_ready(30)
        assert outliving(os.getpid()) == []
    finally:
        pool.close()


class _Ground:
    """A stack whose ended process leaves ``left`` at each check, and a journal that keeps its lines."""

    def __init__(self, *left: list[int]) -> None:
        self.stack = self.journal = self
        self.looks = list(left)
        self.lines: list[dict[str, Any]] = []

    def children(self, member: Member) -> list[int]:
        return [1, 2]

    def exited(self, member: Member, seconds: float) -> None:
        """It has ended."""

    def outliving(self, member: Member) -> list[int]:
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def write(self, kind: str, **entry: Any) -> None:
        del entry["seconds"]
        self.lines.append({"kind": kind, **entry})


WORKER = Member("worker-a", "worker", "worker-1", 7)


@pytest.mark.parametrize(
    ("looks", "left"), [([[]], []), ([[8], [8], []], []), ([[8, 9]], [8, 9]), ([[8, 9], [9]], [9])]
)
def test_the_journal_names_the_children_left_after_a_while(
    looks: list[list[int]], left: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "SOON_SECONDS", 0.3)
    ground = _Ground(*looks)
    with endings.watched(ground, WORKER):  # type: ignore[arg-type]
        pass
    assert ground.lines == [{"kind": "children", "who": "worker-a", "children": 2, "left": left}]


_TOP = """PID ELAPSED COMMAND
100 90 /sbin/docker-init -- python -m services.worker
101 90 python -S -P /app/holdfast/compute/cpu_child.py 9 7
102 3 python -S -P /app/holdfast/compute/cpu_child.py 9 7
"""


def test_in_containers_age_tells_a_child_left_from_one_of_the_next_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stack = ComposeStack("image")
    monkeypatch.setattr(stack, "find_exit", lambda _: Exit(137, time.time() - 10))
    monkeypatch.setattr(stack, "docker", lambda *_, **__: _TOP)
    assert stack.outliving(WORKER) == [101]
    monkeypatch.setattr(stack, "docker", lambda *_, **__: "")
    assert stack.outliving(WORKER) == [], "a container that is down runs nothing"
    monkeypatch.setattr(stack, "find_exit", lambda _: None)
    with pytest.raises(AssertionError, match="has not ended"):
        stack.outliving(WORKER)


@pytest.mark.parametrize(
    "start", [start_child, lambda: _started([]), Watchdog(Settings(), identity("worker-1"))._start_child]
)
def test_what_cannot_be_started_leaves_nothing_open(
    start: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`nothing_left` checks. The error keeps its traceback, so no descriptor is closed by chance."""

    def full(*_: object, **__: object) -> None:
        raise BlockingIOError("no process can be started")

    monkeypatch.setattr(subprocess, "Popen", full)
    with pytest.raises((OSError, StepProcessDied)) as raised:
        start()
    _kept.append(raised.value)


_kept: list[BaseException] = []
