"""What runs in the child process of the `Watchdog`: it ends a parent whose interpreter is blocked.

Started as a file, with a bare interpreter: it imports the standard library alone, and little of it. The
parent sends a ping several times a second, from a thread that needs the interpreter's lock, so a blocked
interpreter is silent. First the child closes the lease session: a lost lock beside an old heartbeat tells the
peers that this silence is a hang, and no pause or cut network. That is harmless where the parent goes on,
which takes its lock again within milliseconds. After a whole lease of silence the child kills the parent.

When the parent is gone, however it ended, the child ends the programs that it left behind: a step's program
would go on beside its second copy, which runs where the work was taken over.
"""

from __future__ import annotations

import array
import json
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Literal

PING, DEBUGGED, SESSION, NO_SESSION, END = b"p", b"d", b"s", b"n", b"e"
"""What the parent says. `DEBUGGED` is a ping, too: a debugger that is attached may suspend every thread."""
MARK = "HOLDFAST_PROCESS"
"""A variable in the environment of a process, and so of all programs that it and they start."""

Act = Literal["wait", "close", "kill"]
_STALL_SECONDS = 1.0
_REPARENTED_SECONDS = 2.0
_PROGRAMS_END_SECONDS = 5.0
_THEN = {
    "interpreter.blocked": ", lease session closed",
    "interpreter.killed": ", killing its process",
}


class Silence:
    """How long the parent has been silent, and what follows; times are of one monotonic clock.

    A parent that is stopped (SIGSTOP) or has a debugger is paused, not blocked. A time in which this process
    itself stood still (a suspended machine, a paused container, no CPU) proves nothing. Both start the count
    anew.
    """

    def __init__(self, now: float, *, close_seconds: float, kill_seconds: float) -> None:
        self._close_seconds = close_seconds
        self._kill_seconds = kill_seconds
        self._heard_at = self._judged_at = now
        self._closed = False

    def heard(self, now: float) -> None:
        """A ping came."""
        self._heard_at = now
        self._closed = False

    def seconds(self, now: float) -> float:
        """Length of the silence."""
        return now - self._heard_at

    def judge(self, now: float, *, stopped: bool) -> Act:
        """What to do now. ``close`` comes once in a silence, ``kill`` from the limit on."""
        stalled = now - self._judged_at > _STALL_SECONDS
        self._judged_at = now
        if stopped or stalled:
            self.heard(now)
        silent = self.seconds(now)
        if silent > self._kill_seconds:
            return "kill"
        if silent > self._close_seconds and not self._closed:
            self._closed = True
            return "close"
        return "wait"


def is_stopped(pid: int) -> bool:
    """Whether the process is stopped or traced, as ``/proc`` says it."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123 - pathlib is a megabyte
            return stat.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (OSError, IndexError):
        return False


def end_programs(mark: str, *, leader: int | None, spare: frozenset[int]) -> int:
    """Kills what a process left behind, and returns how many programs that were.

    Those are processes with its mark in their environment, processes of its session where it was the
    `leader` of one (a fork that runs no other program has the environment of its parent's start), and all
    below them. Neither a new session nor a double fork changes the mark. Never this process, nor `spare`.
    """
    ended: set[tuple[int, bytes]] = set()
    deadline = time.monotonic() + _PROGRAMS_END_SECONDS
    entry = f"{MARK}={mark}".encode()
    # They may be starting others: until a look finds none.
    while found := _left_behind(entry, leader, spare | {os.getpid()}):
        for pid, started in found:
            with suppress(OSError):
                descriptor = os.pidfd_open(pid)
                try:
                    # Its number may have become another's since.
                    if _stat(pid)[2] == started:
                        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                finally:
                    os.close(descriptor)
        ended |= found
        if time.monotonic() > deadline:
            break
        time.sleep(0.005)
    return len(ended)


def _left_behind(entry: bytes, leader: int | None, spare: frozenset[int]) -> set[tuple[int, bytes]]:
    processes: dict[int, tuple[int, int, bytes]] = {}
    found: set[int] = set()
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib is a megabyte
        if not name.isdigit() or (pid := int(name)) in spare:
            continue
        with suppress(OSError):
            processes[pid] = _stat(pid)
            if processes[pid][1] == leader or entry in _environment(pid):
                found.add(pid)
    below = set(found)
    while below := {pid for pid, (parent, _, _) in processes.items() if parent in below} - found:
        found |= below
    return {(pid, processes[pid][2]) for pid in found}


def _stat(pid: int) -> tuple[int, int, bytes]:
    """Parent, session and time of the start of a process. Raises ``OSError`` for one that has ended."""
    with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123 - pathlib is a megabyte
        fields = stat.read().rpartition(b")")[2].split()
    if fields[0] in b"ZX":
        raise ProcessLookupError(pid)
    return int(fields[1]), int(fields[3]), fields[19]


def _environment(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as environment:  # noqa: PTH123
            return environment.read().split(b"\0")
    except OSError:  # another user's
        return []


class Guard:
    """The loop of the child: one channel, one parent, and a duplicate of the socket of its lease session."""

    def __init__(self, channel: socket.socket, parent: int, labels: dict[str, str]) -> None:
        self._channel = channel
        self._parent = parent
        self._labels = labels
        self._session: socket.socket | None = None
        self._is_debugged = False
        self._has_killed = False
        """In this silence."""

    def run(self, silence: Silence, period_seconds: float) -> None:
        """Until the parent is gone. Then, and where it asks for it, its programs are ended."""
        leads = os.getsid(self._parent) == self._parent
        if self._watch(silence, period_seconds) and (mark := os.environ.get(MARK)):
            end_programs(mark, leader=self._parent if leads else None, spare=frozenset({self._parent}))

    def _watch(self, silence: Silence, period_seconds: float) -> bool:
        """Whether the parent is gone or going; it may just as well have lost this child."""
        self._channel.settimeout(period_seconds)
        while os.getppid() == self._parent:
            with suppress(TimeoutError):
                message = self._receive()
                if message == END:
                    return True
                if not message:
                    # At once: peers see a death when the last of the sockets is closed.
                    self._drop_session()
                    return self._is_parent_gone()
                silence.heard(time.monotonic())
                self._has_killed = False
            now = time.monotonic()
            act = silence.judge(now, stopped=self._is_debugged or is_stopped(self._parent))
            if act == "close":
                self._close_session()
                self._log("WARNING", "interpreter.blocked", silence.seconds(now))
            elif act == "kill" and os.getppid() == self._parent:
                os.kill(self._parent, signal.SIGKILL)
                # A parent that is PID 1 of its container survives this.
                if not self._has_killed:
                    self._has_killed = True
                    self._log("CRITICAL", "interpreter.killed", silence.seconds(now))
        self._drop_session()
        return True

    def _is_parent_gone(self) -> bool:
        # A process that dies closes its files a little before its children get another parent.
        deadline = time.monotonic() + _REPARENTED_SECONDS
        while os.getppid() == self._parent:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        return True

    def _receive(self) -> bytes:
        """Takes one message; empty at the end of file."""
        message, ancillary, _, _ = self._channel.recvmsg(1, socket.CMSG_LEN(array.array("i").itemsize))
        if message in (PING, DEBUGGED):
            self._is_debugged = message == DEBUGGED
        if message in (SESSION, NO_SESSION):
            self._drop_session()
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._session = socket.socket(fileno=array.array("i", data)[0])
        return message

    def _close_session(self) -> None:
        """Ends the lease session in the parent's place: PostgreSQL sees its end, and so does the parent."""
        if self._session is not None:
            with suppress(OSError):
                self._session.shutdown(socket.SHUT_RDWR)
        self._drop_session()

    def _drop_session(self) -> None:
        # While this duplicate is open, a parent that is killed would keep its session.
        if self._session is not None:
            self._session.close()
            self._session = None

    def _log(self, level: str, action: str, seconds: float) -> None:
        now = time.time()
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z",
            "level": level,
            "logger": "holdfast.watchdog",
            "message": f"interpreter blocked for {seconds:.1f} s{_THEN[action]}",
            "action": action,
            "blocked_seconds": round(seconds, 3),
            **self._labels,
        }
        text = json.dumps(line).encode() + b"\n"
        with suppress(OSError):
            # Into a full pipe it is lost: this process must not stand still with its parent.
            if len(text) <= select.PIPE_BUF and select.select([], [1], [], 0)[1]:
                os.write(1, text)


def main(arguments: list[str]) -> None:
    """Watches the parent until it is gone."""
    descriptor, parent, close_seconds, kill_seconds, period_seconds, role, executor_id = arguments
    silence = Silence(time.monotonic(), close_seconds=float(close_seconds), kill_seconds=float(kill_seconds))
    channel = socket.socket(fileno=int(descriptor))
    labels = {"role": role, "executor_id": executor_id}
    with suppress(OSError):
        Guard(channel, int(parent), labels).run(silence, float(period_seconds))


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)
