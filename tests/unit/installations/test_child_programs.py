"""What a process started ends with it, however it was started, and nothing else does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from holdfast.installations.embedded import ROOT
from holdfast.installations.supervised import is_alive, start_ticks
from holdfast.recovery.watchdog_child import MARK
from tests.support.database import wait_until

SLEEP = ["sleep", "300"]
PARENT = f"""
import os, subprocess, sys, time
from holdfast.recovery.watchdog import Watchdog, mark_process
from holdfast.settings import Settings
from tests.support.executors import identity

def daemon(run):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            run()
        os._exit(0)
    os.wait()

mark_process()
watchdog = Watchdog(Settings(), identity("worker-tools"))
watchdog.start()
subprocess.Popen({SLEEP})
subprocess.Popen({SLEEP}, start_new_session=True)
subprocess.Popen({SLEEP}, env={{"PATH": os.environ["PATH"]}})
subprocess.Popen(["sh", "-c", "sleep 300 & sleep 300; true"], start_new_session=True)
daemon(lambda: os.execvp("sleep", {SLEEP}))
if os.environ.get("TEST_FORK"):
    daemon(lambda: time.sleep(300))
if os.fork() == 0:
    time.sleep(300)
print("ready", flush=True)
if sys.stdin.read():
    watchdog.stop()
    print("stopped", flush=True)
    time.sleep(300)
"""


def below(mark: bytes) -> dict[int, int | None]:
    """Processes with that in their environment or in whose session they are, and when they began."""
    found = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if mark in (entry / "environ").read_bytes():
                found[int(entry.name)] = start_ticks(int(entry.name))
    return {pid: started for pid, started in found.items() if started is not None}


@contextmanager
def parent(**environment: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        cwd=ROOT,
        env={**os.environ, "TEST_PROGRAMS": str(os.getpid()), **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
        for pid in below(f"TEST_PROGRAMS={os.getpid()}".encode()):
            os.kill(pid, signal.SIGKILL)


def programs(process: subprocess.Popen[bytes]) -> dict[int, int | None]:
    """All that it started, but for its watchdog."""
    mine = below(f"TEST_PROGRAMS={os.getpid()}".encode())
    session = subprocess.run(
        ["ps", "-o", "pid=", "-s", str(process.pid)], capture_output=True, text=True, check=False
    ).stdout.split()
    mine |= {int(pid): start_ticks(int(pid)) for pid in session if start_ticks(int(pid))}
    watchdogs = {pid for pid in mine if b"watchdog_child" in Path(f"/proc/{pid}/cmdline").read_bytes()}
    return {pid: started for pid, started in mine.items() if pid != process.pid and pid not in watchdogs}


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A program of another process: with another mark, in another session."""
    process = subprocess.Popen(SLEEP, env={**os.environ, MARK: "1-other"}, start_new_session=True)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("supervised", [False, True])
def test_the_programs_of_a_killed_process_end_with_it(
    bystander: subprocess.Popen[bytes], supervised: bool
) -> None:
    marked = {MARK: f"{os.getpid()}-test", "TEST_FORK": "1"} if supervised else {}
    with parent(**marked) as process:
        wait_until(lambda: len(programs(process)) == 8 + supervised, "all of them are there")
        started = programs(process)
        process.kill()
        wait_until(
            lambda: not any(is_alive(*program) for program in started.items()), "its programs end", seconds=5
        )
    assert bystander.poll() is None


def test_a_process_that_stops_in_good_order_leaves_none_behind(bystander: subprocess.Popen[bytes]) -> None:
    with parent() as process:
        started = programs(process)
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"stop")
        process.stdin.close()
        assert process.stdout.readline() == b"stopped\n"
        assert not any(is_alive(*program) for program in started.items())
        assert process.poll() is None
    assert bystander.poll() is None


def test_a_lost_watchdog_ends_nothing() -> None:
    """The process goes on, and so do its programs."""
    with parent() as process:
        started = programs(process)
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                cmdline = (entry / "cmdline").read_bytes()
                if b"watchdog_child" in cmdline and start_ticks(int(entry.name)):
                    stat = (entry / "stat").read_text().rpartition(")")[2].split()
                    if int(stat[1]) == process.pid:
                        os.kill(int(entry.name), signal.SIGKILL)
        time.sleep(1)
        assert all(is_alive(*program) for program in started.items())
