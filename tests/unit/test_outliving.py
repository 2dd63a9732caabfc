"""The look for CPU children that outlive their parent sees one, and does not take a child for one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from services.runtime.cpu_pool import CpuPool
from tests.support.native_stack import outliving
from tests.support.stack import wait_for

# Starts what looks like a CPU child of it, bound to nobody's life, and says its pid.
_CARELESS = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-S", sys.argv[1], "0", str(os.getpid())])
print(child.pid, flush=True)
time.sleep(60)
"""
_CARING = """
import os, sys, time
from services.runtime.cpu_pool import CpuPool
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
