"""A stop signal is noticed whatever the main thread does, and the application keeps its own handlers."""

from __future__ import annotations

import subprocess
import sys

import pytest

_BEGIN = """
import asyncio, os, signal, sys, threading, time
from holdfast.attached.stop_signals import StopSignals

def on_signal(name, again):
    print("noticed", name, again, flush=True)
    return True

signals = StopSignals(on_signal, lambda: None)
signals.install()
"""

# The kernel gives the signal to another thread, so nothing interrupts the main thread's wait: as when the
# signal comes between the last byte code and the wait.
_SIGNAL_SOON = """
def send():
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=send, daemon=True).start()
time.sleep(0.1)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
"""

_LOOP = """
async def main():
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGTERM]).start()
    await ended.wait()
    asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)

asyncio.run(main())
"""


def run(*code: str) -> tuple[str, int]:
    """Runs the code in a Python of its own, whose standard input says nothing. Returns output and code."""
    quiet = subprocess.Popen(["sleep", "90"], stdout=subprocess.PIPE)
    command = [sys.executable, "-c", _BEGIN + "".join(code)]
    try:
        done = subprocess.run(
            command, stdin=quiet.stdout, capture_output=True, text=True, timeout=30, check=False
        )
    finally:
        quiet.kill()
        quiet.communicate()
    assert not done.stderr
    return done.stdout, done.returncode


@pytest.mark.parametrize("waits", ["sys.stdin.read()", "threading.Event().wait()", "time.sleep(90)"])
def test_a_signal_is_not_lost_while_the_main_thread_blocks(waits: str) -> None:
    assert run(_SIGNAL_SOON, waits) == ("noticed SIGTERM False\n", 7)


def test_an_event_loop_hears_of_signals_and_they_are_not_lost_after_it() -> None:
    assert run(_LOOP, _SIGNAL_SOON, "sys.stdin.read()") == (2 * "noticed SIGTERM False\n", 7)


_FORK = """
os.register_at_fork(after_in_child=signals.forked)
child = os.fork()
if child:
    print("child:", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    os._exit(0)
"""


@pytest.mark.parametrize("closes", ["", "os.closerange(3, 100)", "os.closerange(3, 100); taken = os.pipe()"])
def test_a_forked_child_notices_signals_once_it_installs(closes: str) -> None:
    """Also a daemon, which has closed all descriptors and may have others under their numbers."""
    code = (_FORK, closes, "\nsignals.install()\n", _SIGNAL_SOON, "sys.stdin.read()")
    assert run(*code) == ("noticed SIGTERM False\nchild: 7\n", 0)


def test_a_forked_child_that_installs_nothing_ends_at_once() -> None:
    """As a child of multiprocessing.Pool does, also in C code."""
    code = "os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)"
    assert run(_FORK, code) == ("child: -15\n", 0)


def test_a_handler_that_is_set_behind_our_back_is_found_at_the_next_installation() -> None:
    """uvloop calls the function that it has imported before it was replaced."""
    code = """
import holdfast.attached.stop_signals as module
module._real_signal(signal.SIGTERM, lambda *_: os._exit(9))
signals.install()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(5)
"""
    assert run(code) == ("noticed SIGTERM False\n", 9)


_PROCESS = """
import logging
from holdfast.attached.attachment import ATTACHMENT
from holdfast.attached.process import AttachedProcess
from holdfast.attached.settings import AttachedSettings
from holdfast.dbos_adapter.launching import Configured

configured = Configured("shop", "1", "local", "host=127.0.0.1 port=1", "dbos", True, False, False, False)
process = ATTACHMENT.process = AttachedProcess(AttachedSettings(configured, {}), configured)
process.end = lambda reason: time.sleep(60)
held, taken = HELD, threading.Event()
threading.Thread(target=lambda: (held.acquire(), taken.set(), time.sleep(60)), daemon=True).start()
taken.wait()
ATTACHMENT._signals._theirs = {signal.SIGTERM: signal.SIG_DFL}
ATTACHMENT._signals._notice(signal.SIGTERM, None)
ATTACHMENT._signals._notice(signal.SIGTERM, None)
print(process.state, process.hurry, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(
    "lock", ["process._lock", "process.drained._cond", "threading._active_limbo_lock", "logging._lock"]
)
def test_a_handler_takes_no_lock(lock: str) -> None:
    """The main thread may hold it: Python calls a handler between any two of its instructions."""
    output, code = run(_PROCESS.replace("HELD", lock))
    assert (output, code) == ("draining True\n", 0)
