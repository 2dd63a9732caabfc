"""The watchdog: when it kills a silent parent, and when a silence is none of its business."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from holdfast.installations.supervised import is_alive
from holdfast.recovery.watchdog import Watchdog
from holdfast.recovery.watchdog_child import END, MARK, PING, SESSION, Guard, Silence
from holdfast.settings import Settings
from tests.support.database import wait_until
from tests.support.executors import identity

CLOSE, KILL, PERIOD = 3.0, 5.5, 0.25
BEAT, LEASE = 0.2, 2.0
MEGABYTE = 1 << 20


def judged(
    *stopped_seconds: tuple[float, float], stall: tuple[float, float] = (0, 0), until: float = 7.0
) -> list[tuple[str, float]]:
    """What is done at which second of a silence; in ``stall`` the watchdog itself stands still."""
    silence = Silence(0.0, close_seconds=CLOSE, kill_seconds=KILL)
    done, now = [], 0.0
    while now < until:
        now += PERIOD
        if stall[0] < now < stall[1]:
            continue
        act = silence.judge(now, stopped=any(begun <= now < ended for begun, ended in stopped_seconds))
        if act != "wait":
            done.append((act, now))
    return done


def test_a_silence_first_costs_the_lease_session_and_then_the_process() -> None:
    acts = judged()
    assert acts[0] == ("close", CLOSE + PERIOD)
    assert acts[1] == ("kill", KILL + PERIOD)
    assert {act for act, _ in acts[1:]} == {"kill"}, "once is not enough where the kill was lost"


def test_a_silence_shorter_than_the_limit_kills_nobody() -> None:
    assert judged(until=KILL) == [("close", CLOSE + PERIOD)]


def test_a_ping_starts_the_count_anew() -> None:
    silence = Silence(0.0, close_seconds=CLOSE, kill_seconds=KILL)
    found = []
    for step in range(1, 40):
        now = step * PERIOD
        if step % 16 == 0:  # every 4 s
            silence.heard(now)
        found.append(silence.judge(now, stopped=False))
    assert found.count("close") == 2
    assert "kill" not in found


def test_a_stopped_parent_is_paused_and_gets_its_time_when_it_goes_on() -> None:
    assert judged((1.0, 60.0), until=60 + CLOSE - PERIOD) == []
    acts = judged((1.0, 60.0), until=70)
    assert acts[0] == ("close", 60 + CLOSE)
    assert acts[1][1] >= 60 + KILL


def test_its_own_stall_proves_nothing() -> None:
    """A suspended machine, a paused container: both stood still."""
    assert judged(stall=(2.0, 40.0), until=40 + CLOSE - PERIOD) == []
    assert judged(stall=(2.0, 40.0), until=50)[0][0] == "close"


# --- with real processes ----------------------------------------------------------------------------

PARENT = f"""
import ctypes, os, signal, socket, sys, time
from holdfast.observability import logs
from holdfast.recovery.watchdog import Watchdog
from holdfast.settings import Settings
from tests.support.executors import identity
settings = Settings(heartbeat_seconds={BEAT}, lease_seconds={LEASE})
logs.configure(settings, role="worker", executor_id="worker-blocked")
watchdog = Watchdog(settings, identity("worker-blocked"))
watchdog.start()
ours = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
watchdog.watch(ours.fileno())
for line in sys.stdin:
    words = line.split()
    if words[0] == "block":
        ctypes.PyDLL(None).usleep(int(float(words[1]) * 1e6))
    elif words[0] == "debug":
        sys.modules["pydevd"] = sys
    elif words[0] == "lose":
        os.kill(watchdog.pid, signal.SIGKILL)
    print("pid", watchdog.pid or 0, flush=True)
"""


class Blocked:
    """A process with a watchdog, and the server's side of its lease session."""

    def __init__(self, process: subprocess.Popen[bytes], session: socket.socket, log: Path) -> None:
        self.process = process
        self.session = session
        self._log = log

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def lines(self) -> list[str]:
        """Whole lines: the last one may still be being written."""
        return self._log.read_text("utf-8").split("\n")[:-1]

    def child(self) -> int:
        """The watchdog's pid, as the parent says it: it goes on."""
        said = len(self._said())
        self.tell("say")
        wait_until(lambda: len(self._said()) > said, "an answer")
        return int(self._said()[-1].split()[1])

    def _said(self) -> list[str]:
        return [line for line in self.lines() if line.startswith("pid")]

    def session_ended(self) -> bool:
        try:
            return self.session.recv(1) == b""
        except BlockingIOError:
            return False

    def logged(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.lines() if not line.startswith("pid")]


@contextmanager
def full_pipe() -> Iterator[int]:
    """Whoever writes into it waits."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with suppress(BlockingIOError):
        while True:
            os.write(write, b"x")
    os.set_blocking(write, True)
    try:
        yield write
    finally:
        os.close(read)
        os.close(write)


@contextmanager
def blocked(directory: Path, *, output_full: bool = False) -> Iterator[Blocked]:
    log = directory / "log"
    with socket.create_server(("127.0.0.1", 0)) as server, log.open("wb") as output, full_pipe() as full:
        process = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(server.getsockname()[1])],
            stdin=subprocess.PIPE,
            stdout=full if output_full else output,
            stderr=output,
            start_new_session=True,
        )
        try:
            session, _ = server.accept()
            with session:
                session.setblocking(False)
                yield Blocked(process, session, log)
        finally:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Blocked]:
    with blocked(tmp_path) as made:
        made.child()
        yield made


@pytest.mark.timing
def test_a_blocked_interpreter_loses_its_lease_session_and_is_killed(parent: Blocked) -> None:
    begun = time.monotonic()
    parent.tell("block 30")
    wait_until(parent.session_ended, "its lease session ends")
    assert parent.process.poll() is None
    assert 0.4 < time.monotonic() - begun < LEASE - BEAT + 0.2
    assert parent.process.wait(30) == -signal.SIGKILL
    assert LEASE < time.monotonic() - begun < LEASE + 2
    closed, killed = parent.logged()
    assert (closed["action"], killed["action"]) == ("interpreter.blocked", "interpreter.killed")
    assert killed["executor_id"] == "worker-blocked"
    assert set(killed) >= {"time", "level", "logger", "message", "role"}


def test_a_block_shorter_than_the_lease_costs_at_most_the_session(parent: Blocked) -> None:
    for _ in range(3):
        parent.tell(f"block {0.7 * LEASE}")
        assert parent.child()
    assert parent.process.poll() is None


def test_a_paused_parent_is_left_alone(parent: Blocked) -> None:
    for number in (signal.SIGSTOP, signal.SIGCONT):
        parent.process.send_signal(number)
        time.sleep(2 * LEASE)
    assert parent.child()
    assert not parent.session_ended()
    assert parent.logged() == []


def test_a_parent_with_a_debugger_is_left_alone(parent: Blocked) -> None:
    """One that suspends every thread, as pydevd does at a breakpoint."""
    parent.tell("debug")
    time.sleep(2 * BEAT)
    parent.tell(f"block {2 * LEASE}")
    time.sleep(2 * LEASE)
    assert parent.child()
    assert not parent.session_ended()
    assert parent.logged() == []


def test_a_full_log_holds_up_no_kill(tmp_path: Path) -> None:
    """Its reader stands still, too: the reader is the runtime of a container, or a blocked supervisor."""
    with blocked(tmp_path, output_full=True) as parent:
        time.sleep(0.5)
        parent.tell("block 30")
        assert parent.process.wait(30) == -signal.SIGKILL


def test_a_parent_that_survives_is_logged_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PID 1 of a container takes no SIGKILL from inside of it."""
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    done: list[str] = []

    def kill(_: int, number: int) -> None:
        done.append(f"signal {number}")
        if done.count("signal 9") in (3, 6):
            ours.send(PING if done.count("signal 9") == 3 else END)

    monkeypatch.setattr("holdfast.recovery.watchdog_child.os.kill", kill)
    monkeypatch.setattr(Guard, "_log", lambda _, __, action, ___: done.append(action))
    monkeypatch.delenv(MARK, raising=False)
    with ours, theirs:
        Guard(theirs, os.getppid(), {}).run(
            Silence(time.monotonic(), close_seconds=9, kill_seconds=0.05), 0.02
        )
    silence = ["interpreter.killed", "signal 9", "signal 9", "signal 9"]
    assert done == [*silence, *silence]


def test_pid_1_logs_that_its_watchdog_has_no_power(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Watchdog, "_start_child", lambda _: None)
    monkeypatch.setattr(Watchdog, "_run", lambda _: None)
    for pid in (1, 2):
        monkeypatch.setattr("holdfast.recovery.watchdog.os.getpid", lambda pid=pid: pid)
        Watchdog(Settings(), identity("worker-1")).start()
    (record,) = caplog.records
    assert "init: true" in record.getMessage()


def test_it_ends_with_its_parent_and_keeps_no_session_of_it(parent: Blocked) -> None:
    child = parent.child()
    parent.process.kill()
    parent.process.wait()
    wait_until(parent.session_ended, "the session ends")
    wait_until(lambda: not is_alive(child), "the watchdog ends")


def test_the_session_goes_before_anything_else_when_the_parent_has_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until then peers see a living process, however long its programs take to end."""
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    session, server = socket.socketpair()
    server.setblocking(False)
    seen = []

    def look(_: Guard) -> bool:
        seen.append(server.recv(1))
        return False

    monkeypatch.setattr(Guard, "_is_parent_gone", look)
    with server, theirs:
        socket.send_fds(ours, [SESSION], [session.fileno()])
        session.close()
        ours.close()
        Guard(theirs, os.getppid(), {}).run(Silence(time.monotonic(), close_seconds=9, kill_seconds=9), 1.0)
    assert seen == [b""]


def test_signals_to_the_group_do_not_end_it(parent: Blocked) -> None:
    child = parent.child()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(child, number)
    time.sleep(0.1)
    assert is_alive(child)


def sockets(child: int) -> list[Path]:
    """Its channel and the lease session are the only ones; it may still be starting."""
    held = []
    for each in Path(f"/proc/{child}/fd").iterdir():
        with suppress(OSError):  # it has opened and closed something meanwhile
            held.append(each.readlink())
    return [path for path in held if str(path).startswith("socket:")]


def test_a_lost_watchdog_is_replaced_and_knows_the_session(parent: Blocked) -> None:
    before = parent.child()
    parent.tell("lose")
    wait_until(lambda: parent.child() not in (before, 0), "another child")
    child = parent.child()
    wait_until(lambda: len(sockets(child)) == 2, "it has the lease session")
    parent.tell("block 30")
    wait_until(parent.session_ended, "its lease session ends")
    assert parent.process.wait(30) == -signal.SIGKILL


def test_it_is_small_and_holds_no_other_file(parent: Blocked) -> None:
    child = parent.child()
    wait_until(lambda: len(sockets(child)) == 2, "it has the lease session")
    sizes = dict(
        line.split(":") for line in Path(f"/proc/{child}/smaps_rollup").read_text("utf-8").splitlines()[1:]
    )
    own = sum(int(sizes[name].split()[0]) for name in ("Private_Clean", "Private_Dirty"))
    assert own * 1024 < 8 * MEGABYTE
    time.sleep(2 * BEAT)
    assert len(sockets(child)) == 2
