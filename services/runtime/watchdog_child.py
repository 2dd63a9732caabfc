"""What runs in the child process of the `Watchdog`: it ends a parent whose interpreter is blocked.

Started as a file, with a bare interpreter: it imports the standard library alone, and little of it. The
parent sends a ping several times a second, from a thread that needs the interpreter's lock, so a blocked
interpreter is silent. First the child closes the lease session: a lost lock beside an old heartbeat tells the
peers that this silence is a hang, and no pause or cut network. That is harmless where the parent goes on,
which takes its lock again within milliseconds. After a whole lease of silence the child kills the parent.
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

PING, SESSION, NO_SESSION = b"p", b"s", b"n"

Act = Literal["wait", "close", "kill"]
_STALL_SECONDS = 1.0
_THEN = {
    "interpreter.blocked": ", lease session closed",
    "interpreter.killed": ", killing its process",
}


class Silence:
    """How long the parent has been silent, and what follows; times are of one monotonic clock.

    A parent that is stopped (SIGSTOP, a debugger) is paused, not blocked. A time in which this process itself
    stood still (a suspended machine, a paused container, no CPU) proves nothing. Both start the count anew.
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


class Guard:
    """The loop of the child: one channel, one parent, and a duplicate of the socket of its lease session."""

    def __init__(self, channel: socket.socket, parent: int, labels: dict[str, str]) -> None:
        self._channel = channel
        self._parent = parent
        self._labels = labels
        self._session: socket.socket | None = None

    def run(self, silence: Silence, period_seconds: float) -> None:
        """Until the parent is gone."""
        while os.getppid() == self._parent:
            if select.select([self._channel], [], [], period_seconds)[0]:
                if not self._receive():
                    return
                silence.heard(time.monotonic())
            now = time.monotonic()
            act = silence.judge(now, stopped=is_stopped(self._parent))
            if act == "close":
                self._close_session()
                self._log("WARNING", "interpreter.blocked", silence.seconds(now))
            elif act == "kill" and os.getppid() == self._parent:
                self._log("CRITICAL", "interpreter.killed", silence.seconds(now))
                os.kill(self._parent, signal.SIGKILL)

    def _receive(self) -> bool:
        """Takes one message; false at the end of file."""
        message, ancillary, _, _ = self._channel.recvmsg(1, socket.CMSG_LEN(array.array("i").itemsize))
        if message in (SESSION, NO_SESSION):
            self._drop_session()
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._session = socket.socket(fileno=array.array("i", data)[0])
        return bool(message)

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
        with suppress(OSError):
            os.write(1, json.dumps(line).encode() + b"\n")


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
