"""The launcher: one process beside a worker that forks a process for every step with a timeout.

It imports the steps' modules once, so a fork costs milliseconds where a new interpreter costs a second. It
runs no code of a step itself, so it always responds. It kills a step's whole process group when the worker
requests it, when the step's process ends, and when the worker is gone (its end of the channel closes).

A message on the channel consists of one byte (``RUN``, ``END``) and the step's number. ``RUN`` carries the
socket of the step. On that socket the worker sends one frame, the pickled call, and receives one frame, the
pickled outcome. The launcher adds a frame with the exit status when the whole group has ended.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import pickle
import selectors
import signal
import socket
import struct
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

if __name__ == "__main__":
    # This file is started by its path, so sys.path does not contain our packages yet.
    sys.path.insert(0, str(Path(__file__).parents[2]))

from holdfast.compute.cpu_child import receive, send

MESSAGE = struct.Struct("!cQ")
RUN, END = b"r", b"e"
READY = b"ready"
_PR_SET_PDEATHSIG = 1
_OOM_SCORE = b"500"


class Launcher:
    """Serves one worker until its end of the channel closes."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._pid = os.getpid()
        self._sockets: dict[int, tuple[int, socket.socket]] = {}
        """The number and the socket of each running step, by process id."""
        self._woken, waking = os.pipe()
        os.set_blocking(waking, False)
        os.set_blocking(self._woken, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waking, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Serves until the worker is gone, and then kills the processes of its steps."""
        selector = selectors.DefaultSelector()
        selector.register(self._channel, selectors.EVENT_READ)
        selector.register(self._woken, selectors.EVENT_READ)
        try:
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._channel:
                        self._handle_message()
                    else:
                        with suppress(BlockingIOError):
                            os.read(self._woken, 512)
                self._reap_ended()
        except (EOFError, OSError):
            for pid in self._sockets:
                _end_group(pid)

    def _handle_message(self) -> None:
        message, fds, *_ = socket.recv_fds(self._channel, MESSAGE.size, 1)
        if len(message) < MESSAGE.size:
            raise EOFError
        kind, number = MESSAGE.unpack(message)
        if kind == END:
            for pid, (step, _) in self._sockets.items():
                if step == number:
                    _end_group(pid)
            return
        opened = socket.socket(fileno=fds[0])
        try:
            pid = os.fork()
        except OSError as error:
            _send_outcome(opened, ("not started", str(error)))
            return
        if pid == 0:
            self._become_step(opened)
        # Both processes create the group, so that it exists whichever runs first.
        with suppress(OSError):
            os.setpgid(pid, pid)
        self._sockets[pid] = (number, opened)

    def _become_step(self, opened: socket.socket) -> NoReturn:
        status = 70
        try:
            with suppress(OSError):  # fails if the launcher's setpgid came first
                os.setsid()
            _die_with(self._pid)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            self._channel.close()
            for _, other in self._sockets.values():
                other.close()
            # If memory runs out, the kernel kills a step's process first.
            with suppress(OSError):
                Path("/proc/self/oom_score_adj").write_bytes(_OOM_SCORE)
            run_step(opened)
            status = 0
        finally:
            with suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def _reap_ended(self) -> None:
        """Kills the rest of each group whose first process has ended."""
        for pid in list(self._sockets):
            # Until it is reaped, its pid still belongs to its group.
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            _end_group(pid)
            _, status = os.waitpid(pid, 0)
            _, opened = self._sockets.pop(pid)
            _send_outcome(opened, ("ended", os.waitstatus_to_exitcode(status)))


def run_step(opened: socket.socket) -> None:
    """Receives a function and its arguments, calls it, and sends the outcome."""
    try:
        function, args = pickle.loads(receive(opened))  # noqa: S301 - from our own worker
        outcome = (True, function(*args))
    except BaseException as error:
        with suppress(Exception):
            error.add_note(f"In the step's process {os.getpid()}:\n{traceback.format_exc()}")
        outcome = (False, error)
    send(opened, _packed(outcome))


def _packed(outcome: tuple[bool, Any]) -> bytes:
    """Pickles the value or the error. An error that cannot be pickled is reduced to its text."""
    succeeded, value = outcome
    try:
        payload = pickle.dumps(outcome)
        _, copy = pickle.loads(payload)  # noqa: S301 - our own bytes
        # An ``__init__`` that changes its arguments would change them twice.
        if succeeded or (type(copy) is type(value) and _text(copy) == _text(value)):
            return payload
    except Exception as error:
        if succeeded:
            return pickle.dumps((False, TypeError(f"The result cannot leave its process: {error}")))
    return pickle.dumps((None, ([kind.__name__ for kind in type(value).__mro__], _text(value))))


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:
        return "its text cannot be read"


def _send_outcome(opened: socket.socket, outcome: Any) -> None:
    opened.settimeout(0)
    with opened, suppress(OSError):
        send(opened, pickle.dumps(outcome))


def _end_group(pid: int) -> None:
    with suppress(OSError):
        os.killpg(pid, signal.SIGKILL)


def _die_with(parent: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # the parent died before the call above
        os._exit(1)


def main(channel: socket.socket) -> None:
    """Imports the modules, reports success or a traceback, and serves."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # The worker decides when the launcher ends.
        signal.signal(ignored, signal.SIG_IGN)
    path, modules = pickle.loads(receive(channel))  # noqa: S301 - from our own worker
    sys.path[:] = path
    try:
        for module in modules:
            importlib.import_module(module)
    except BaseException:
        send(channel, traceback.format_exc().encode("utf-8", "backslashreplace"))
        return
    send(channel, READY)
    Launcher(channel).serve()


if __name__ == "__main__":
    with suppress(EOFError):
        main(socket.socket(fileno=int(sys.argv[1])))
