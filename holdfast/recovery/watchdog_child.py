"""The program of the `Watchdog`'s child process: it kills a parent whose interpreter is blocked.

It runs in a bare interpreter beside each process, so it imports as little as it can: ``socket``, ``array``,
``signal``, ``json``, ``contextlib`` and ``typing`` would add 2 MB to its 3. What it needs rarely, it imports
then. The parent sends a ping several times per second from a thread that needs the interpreter's lock, so a
blocked interpreter is silent. First the child closes the lease session: a lost lock together with an old
heartbeat shows the peers that the silence is a hang, not a pause or a network partition. This is harmless if
the parent continues, because it acquires its lock again within milliseconds. After a whole lease of silence
the child kills the parent.

When the parent is gone, however it ended, the child ends the programs that the parent left running. Otherwise
a step's program would continue beside its second copy, which runs in the process that took the work over.
"""

from __future__ import annotations

import _socket
import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Literal

    Act = Literal["wait", "close", "kill"]

PING, DEBUGGED, SESSION, NO_SESSION, END = b"p", b"d", b"s", b"n", b"e"
"""The parent's messages. `DEBUGGED` is a ping too: an attached debugger can suspend every thread."""
MARK = "HOLDFAST_PROCESS"
"""Name of an environment variable that a process and all programs below it inherit."""

_SIGKILL = 9
_DESCRIPTOR_BYTES = 4
_STALL_SECONDS = 1.0
_REPARENTED_SECONDS = 2.0
_PROGRAMS_END_SECONDS = 5.0
_THEN = {
    "interpreter.blocked": ", lease session closed",
    "interpreter.killed": ", killing its process",
}


class Silence:
    """Measures how long the parent has been silent and decides what to do. Times are of one monotonic clock.

    A parent that is stopped (SIGSTOP) or debugged is paused, not blocked. A time in which this process itself
    did not run (a suspended machine, a paused container, no CPU) proves nothing. Both reset the measurement.
    """

    def __init__(self, now: float, *, close_seconds: float, kill_seconds: float) -> None:
        self._close_seconds = close_seconds
        self._kill_seconds = kill_seconds
        self._heard_at = self._judged_at = now
        self._closed = False

    def heard(self, now: float) -> None:
        """Records a ping."""
        self._heard_at = now
        self._closed = False

    def seconds(self, now: float) -> float:
        """Returns the length of the silence."""
        return now - self._heard_at

    def judge(self, now: float, *, stopped: bool) -> Act:
        """Returns the action to take now: ``close`` once per silence, ``kill`` from the limit on."""
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
    """Whether the process is stopped or traced, according to ``/proc``."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123 - pathlib is a megabyte
            return stat.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (OSError, IndexError):
        return False


def end_programs(mark: str, *, leader: int | None, spare: frozenset[int]) -> int:
    """Kills the programs that a process left running, and returns their number.

    These are the processes with its mark in their environment, those of its session if it was a session's
    `leader` (a fork without exec has the environment of its parent's start), and all their descendants.
    Neither a new session nor a double fork changes the mark. This process and `spare` are never killed.
    """
    import signal

    ended: set[tuple[int, bytes]] = set()
    deadline = time.monotonic() + _PROGRAMS_END_SECONDS
    entry = f"{MARK}={mark}".encode()
    # They may start others meanwhile: repeat until a scan finds none.
    while found := _left_behind(entry, leader, spare | {os.getpid()}):
        for pid, started in found:
            try:
                descriptor = os.pidfd_open(pid)
            except OSError:
                continue
            try:
                # Another process may have reused the pid since the scan.
                if _stat(pid)[2] == started:
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            except OSError:
                pass
            finally:
                os.close(descriptor)
        ended |= found
        if time.monotonic() > deadline:
            break
        time.sleep(0.005)
    return len(ended)


def _left_behind(entry: bytes, leader: int | None, spare: frozenset[int]) -> set[tuple[int, bytes]]:
    processes: dict[int, tuple[int, int, bytes]] = {}
    leftover: set[int] = set()
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib is a megabyte
        if not name.isdigit() or (pid := int(name)) in spare:
            continue
        try:
            processes[pid] = _stat(pid)
        except OSError:
            continue
        if processes[pid][1] == leader or entry in _environment(pid):
            leftover.add(pid)
    below = set(leftover)
    while below := {pid for pid, (parent, _, _) in processes.items() if parent in below} - leftover:
        leftover |= below
    return {(pid, processes[pid][2]) for pid in leftover}


def _stat(pid: int) -> tuple[int, int, bytes]:
    """Returns parent, session and start time of a process. Raises ``OSError`` if it has ended."""
    with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123 - pathlib is a megabyte
        fields = stat.read().rpartition(b")")[2].split()
    if fields[0] in b"ZX":
        raise ProcessLookupError(pid)
    return int(fields[1]), int(fields[3]), fields[19]


def _environment(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as environment:  # noqa: PTH123
            return environment.read().split(b"\0")
    except OSError:  # a process of another user
        return []


class Guard:
    """The child's main loop: one channel, one parent, and a duplicate of the lease session's socket."""

    def __init__(self, channel: socket.socket | _socket.socket, parent: int, labels: dict[str, str]) -> None:
        self._channel = channel
        self._parent = parent
        self._labels = labels
        self._session: _socket.socket | None = None
        self._is_debugged = False
        self._has_killed = False
        """Whether the parent was killed in this silence."""

    def run(self, silence: Silence, period_seconds: float) -> None:
        """Watches until the parent is gone or sends `END`, then ends the parent's programs."""
        leads = os.getsid(self._parent) == self._parent
        if self._watch(silence, period_seconds) and (mark := os.environ.get(MARK)):
            end_programs(mark, leader=self._parent if leads else None, spare=frozenset({self._parent}))

    def _watch(self, silence: Silence, period_seconds: float) -> bool:
        """Returns whether the parent is gone or ending. If not, it only closed the channel to this child."""
        self._channel.settimeout(period_seconds)
        while os.getppid() == self._parent:
            message = self._receive()
            if message == END:
                return True
            if message == b"":
                # Immediately: peers detect a death only when the last duplicate of the socket is closed.
                self._drop_session()
                return self._is_parent_gone()
            if message is not None:
                silence.heard(time.monotonic())
                self._has_killed = False
            now = time.monotonic()
            act = silence.judge(now, stopped=self._is_debugged or is_stopped(self._parent))
            if act == "close":
                self._close_session()
                self._log("WARNING", "interpreter.blocked", silence.seconds(now))
            elif act == "kill" and os.getppid() == self._parent:
                # First the log: the end of a container's main process ends this one too. A parent that is
                # PID 1 of its container survives the signal.
                if not self._has_killed:
                    self._has_killed = True
                    self._log("CRITICAL", "interpreter.killed", silence.seconds(now))
                os.kill(self._parent, _SIGKILL)
        self._drop_session()
        return True

    def _is_parent_gone(self) -> bool:
        # A dying process closes its files shortly before its children are reparented.
        deadline = time.monotonic() + _REPARENTED_SECONDS
        while os.getppid() == self._parent:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        return True

    def _receive(self) -> bytes | None:
        """Receives one message: empty at the end of file, None if none came in time."""
        try:
            message, ancillary, _, _ = self._channel.recvmsg(1, _socket.CMSG_LEN(_DESCRIPTOR_BYTES))
        except TimeoutError:
            return None
        if message in (PING, DEBUGGED):
            self._is_debugged = message == DEBUGGED
        if message in (SESSION, NO_SESSION):
            self._drop_session()
        for level, kind, data in ancillary:
            if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
                self._session = _socket.socket(fileno=int.from_bytes(data[:_DESCRIPTOR_BYTES], sys.byteorder))
        return message

    def _close_session(self) -> None:
        """Shuts the parent's lease session down. PostgreSQL and the parent both see its end."""
        if self._session is not None:
            try:  # noqa: SIM105 - no contextlib: see above
                self._session.shutdown(_socket.SHUT_RDWR)
            except OSError:
                pass
        self._drop_session()

    def _drop_session(self) -> None:
        # While this duplicate is open, the session of a killed parent would stay alive.
        if self._session is not None:
            self._session.close()
            self._session = None

    def _log(self, level: str, action: str, seconds: float) -> None:
        import json

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
        try:
            # The line is dropped if the pipe is full: this process must not block together with its parent.
            if len(text) <= select.PIPE_BUF and select.select([], [1], [], 0)[1]:
                os.write(1, text)
        except OSError:
            pass


def run(arguments: list[str]) -> None:
    """Watches the parent until it is gone, and ends this process."""
    main(arguments)
    os._exit(0)


def main(arguments: list[str]) -> None:
    """Watches the parent until it is gone."""
    descriptor, parent, close_seconds, kill_seconds, period_seconds, role, executor_id = arguments
    silence = Silence(time.monotonic(), close_seconds=float(close_seconds), kill_seconds=float(kill_seconds))
    channel = _socket.socket(fileno=int(descriptor))
    labels = {"role": role, "executor_id": executor_id}
    try:  # noqa: SIM105 - no contextlib: see above
        Guard(channel, int(parent), labels).run(silence, float(period_seconds))
    except OSError:
        pass
