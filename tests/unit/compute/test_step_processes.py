"""Processes of steps with a timeout: killed with all that they started, and never left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from dbos import PortableWorkflowError

from holdfast.compute.step_processes import StepProcesses
from holdfast.dbos_adapter.cancelling import Cancellation
from holdfast.errors import CpuCancelled, InvalidRequest, StepProcessDied, StepTimeout
from tests.support.database import wait_until

ROOT = Path(__file__).parents[3]


# What steps run. Their processes import this module by name.


def pid_and(value: int) -> tuple[int, int]:
    return value, os.getpid()


def spin_with_a_child(path: str) -> None:
    """Holds the GIL in C, beside a program of its own that would outlive it."""
    program = subprocess.Popen(["sleep", "300"])
    Path(path).write_text(f"{os.getpid()} {program.pid}")
    re.match(r"(x+x+)+y", "x" * 64)


def leave_a_child(path: str) -> str:
    Path(path).write_text(f"{os.getpid()} {subprocess.Popen(['sleep', '300']).pid}")
    return "done"


def refuse() -> None:
    raise InvalidRequest("not this", field="f")


def leave() -> None:
    sys.exit(3)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_the_launcher() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


class OddError(Exception):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def raise_odd() -> None:
    raise OddError("a", "b")


class CodeError(Exception):
    def __init__(self, code: object) -> None:
        super().__init__(f"code {code}")


class OddCodeError(CodeError):
    def __init__(self, code: object, more: object) -> None:
        super().__init__(code)


class OddExit(BaseException):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def raise_code() -> None:
    raise CodeError(5)


def raise_odd_code() -> None:
    raise OddCodeError(5, 6)


def raise_odd_exit() -> None:
    raise OddExit("a", "b")


def unpicklable() -> object:
    return lambda: None


@pytest.fixture(scope="module")
def processes() -> Iterator[StepProcesses]:
    made = StepProcesses(partial(list, [__name__]))
    made.run(pid_and, (0,), timeout_seconds=60)
    yield made
    made.close()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(path: Path) -> None:
    pids = [int(pid) for pid in path.read_text().split()]
    assert len(pids) == 2
    wait_until(lambda: not any(map(alive, pids)), f"{pids} are gone", seconds=3)


def test_each_run_has_a_process_of_its_own(processes: StepProcesses) -> None:
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda n: processes.run(pid_and, (n,), timeout_seconds=20), range(40)))
    assert [value for value, _ in found] == list(range(40))
    assert len({pid for _, pid in found} | {os.getpid()}) == 41
    wait_until(lambda: not any(alive(pid) for _, pid in found), "they have ended")


def test_a_large_value_goes_both_ways(processes: StepProcesses) -> None:
    large = "x" * 30_000_000
    assert processes.run(str.upper, (large,), timeout_seconds=30) == large.upper()


def test_at_the_timeout_all_of_it_is_killed(processes: StepProcesses, tmp_path: Path) -> None:
    with pytest.raises(StepTimeout, match=r"longer than 0\.5 s"):
        processes.run(spin_with_a_child, (str(tmp_path / "pids"),), timeout_seconds=0.5)
    gone(tmp_path / "pids")


def test_when_cancelled_all_of_it_is_killed(processes: StepProcesses, tmp_path: Path) -> None:
    cancellation = Cancellation()
    threading.Timer(0.5, cancellation.set).start()
    with pytest.raises(CpuCancelled):
        processes.run(
            spin_with_a_child,
            (str(tmp_path / "pids"),),
            timeout_seconds=30,
            cancellation=cancellation,
        )
    gone(tmp_path / "pids")
    with pytest.raises(CpuCancelled):
        processes.run(time.sleep, (30,), timeout_seconds=30, cancellation=cancellation)


def test_what_it_started_ends_with_it(processes: StepProcesses, tmp_path: Path) -> None:
    assert processes.run(leave_a_child, (str(tmp_path / "pids"),), timeout_seconds=30) == "done"
    gone(tmp_path / "pids")


def test_errors_come_back(processes: StepProcesses) -> None:
    with pytest.raises(InvalidRequest, match="not this") as refused:
        processes.run(refuse, (), timeout_seconds=20)
    assert refused.value.field == "f"
    with pytest.raises(SystemExit) as left:
        processes.run(leave, (), timeout_seconds=20)
    assert left.value.code == 3
    with pytest.raises(PortableWorkflowError, match="ab") as odd:
        processes.run(raise_odd, (), timeout_seconds=20)
    assert odd.value.name == "OddError"
    with pytest.raises(TypeError, match="cannot leave its process"):
        processes.run(unpicklable, (), timeout_seconds=20)
    with pytest.raises(StepProcessDied, match="signal 9"):
        processes.run(die, (), timeout_seconds=20)


def test_an_error_that_does_not_survive_the_way_keeps_text_and_classes(processes: StepProcesses) -> None:
    for function, text, classes, final in (
        (raise_code, "code 5", ["CodeError", "Exception"], False),
        (raise_odd_code, "code 5", ["OddCodeError", "CodeError", "Exception"], False),
        (raise_odd_exit, "ab", ["OddExit"], True),
    ):
        with pytest.raises(PortableWorkflowError) as raised:
            processes.run(function, (), timeout_seconds=20)
        found: Any = raised.value
        assert (found.name, str(found), found.final) == (classes[0], text, final)
        assert found.classes == [*classes, "BaseException", "object"]


def test_one_end_that_fails_drops_no_other() -> None:
    called: list[int] = []
    cancellation = Cancellation()
    for end in (lambda: called.append(1), lambda: 1 / 0, lambda: called.append(2)):
        cancellation.add(end)
    cancellation.set()
    assert called == [1, 2]


def test_a_launcher_that_died_is_replaced() -> None:
    processes = StepProcesses(partial(list, [__name__]))
    launcher = processes.run(os.getppid, (), timeout_seconds=60)
    os.kill(launcher, signal.SIGKILL)
    wait_until(lambda: not alive(launcher), "it is dead")
    assert processes.run(pid_and, (7,), timeout_seconds=30)[0] == 7
    processes.close()


def test_a_step_whose_launcher_dies_ends_at_once_as_died() -> None:
    """An error that the retries of steps know, not the closed socket's own."""
    processes = StepProcesses(partial(list, [__name__]))
    with pytest.raises(StepProcessDied, match="is gone"):
        processes.run(kill_the_launcher, (), timeout_seconds=50)
    assert processes.run(pid_and, (7,), timeout_seconds=30)[0] == 7
    processes.close()


def test_a_module_that_cannot_be_imported_is_named() -> None:
    broken = StepProcesses(partial(list, ["no_such_module"]))
    with pytest.raises(StepProcessDied, match="no_such_module"):
        broken.run(pid_and, (1,), timeout_seconds=20)


def test_nothing_outlives_the_worker(tmp_path: Path) -> None:
    code = textwrap.dedent(f"""
        from holdfast.compute.step_processes import StepProcesses
        from tests.unit.compute.test_step_processes import spin_with_a_child
        StepProcesses(lambda: ["tests.unit.compute.test_step_processes"]).run(
            spin_with_a_child, ({str(tmp_path / "pids")!r},), timeout_seconds=60)
    """)
    worker = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        wait_until((tmp_path / "pids").exists, "the step runs", seconds=30)
        wait_until(lambda: len((tmp_path / "pids").read_text().split()) == 2, "it is written")
    finally:
        worker.kill()
        worker.wait()
    gone(tmp_path / "pids")
