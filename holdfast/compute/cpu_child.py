"""The program of a child process of the `CpuPool`: it reads tasks, computes and answers until end of file.

It is started as a file with a bare interpreter, so it must not import heavy modules. A frame consists of
eight bytes of length and a pickle. The first frame holds (``sys.path``, modules to load); the child answers
it with the frame "ready". Each further frame holds (function, arguments); the child answers each with (ok,
value or exception, seconds).
"""

from __future__ import annotations

import ctypes
import importlib
import os
import pickle
import signal
import socket
import struct
import sys
import time
from contextlib import suppress
from typing import Any

_LENGTH = struct.Struct("!Q")
_PR_SET_PDEATHSIG = 1
_OOM_SCORE = b"500"
_CHUNK_BYTES = 1 << 20


def send(channel: socket.socket, payload: bytes) -> None:
    """Writes one frame. Raises ``OSError`` if the other side is gone."""
    channel.sendall(_LENGTH.pack(len(payload)) + payload)


def receive(channel: socket.socket) -> bytes:
    """Reads one frame. Raises ``EOFError`` or ``OSError`` if the other side is gone."""
    (length,) = _LENGTH.unpack(_read(channel, _LENGTH.size))
    return _read(channel, length)


def _read(channel: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = channel.recv(min(size - len(data), _CHUNK_BYTES))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)


def _answer(function: Any, args: tuple[Any, ...]) -> bytes:
    began = time.perf_counter()
    try:
        value = function(*args)
        return pickle.dumps((True, value, time.perf_counter() - began))
    except Exception as error:
        import traceback

        error.add_note(f"In the child process {os.getpid()}:\n{traceback.format_exc()}")
        return _portable(error, time.perf_counter() - began)


def _portable(error: Exception, seconds: float) -> bytes:
    """Pickles the exception, or a RuntimeError with its text if it does not survive a round trip."""
    try:
        payload = pickle.dumps((False, error, seconds))
        pickle.loads(payload)  # noqa: S301 - our own bytes
    except Exception:
        payload = b""
    # An asyncio future refuses a StopIteration, and the coroutine that awaits it would wait forever.
    if not payload or isinstance(error, StopIteration):
        return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}"), seconds))
    return payload


def _bind_life_to(parent_pid: int) -> None:
    """Makes the kernel kill this process when the thread that started it ends, even during a computation.

    The same mechanism as in `installations.embedded`, which this file must not import.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:  # the parent died before the call above
        os._exit(1)


def main(channel: socket.socket, parent_pid: int) -> None:
    """Serves tasks until the parent closes its end or dies."""
    _bind_life_to(parent_pid)
    # SCHED_IDLE: any other runnable thread (heartbeats, HTTP, PostgreSQL) preempts the computation
    # immediately. `nice` is not enough: it only weighs within the process's own cgroup or session, and does
    # not preempt.
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    # If memory runs out, the kernel kills a child before its parent.
    with suppress(OSError), open("/proc/self/oom_score_adj", "wb", buffering=0) as score:  # noqa: PTH123
        score.write(_OOM_SCORE)
    path, modules = pickle.loads(receive(channel))  # noqa: S301 - from our own parent
    sys.path[:] = path
    for module in modules:
        importlib.import_module(module)
    send(channel, b"ready")
    while True:
        task = receive(channel)
        try:
            function, args = pickle.loads(task)  # noqa: S301 - from our own parent
        except Exception as error:
            answer = _portable(error, 0.0)
        else:
            answer = _answer(function, args)
        send(channel, answer)


if __name__ == "__main__":
    with suppress(EOFError, OSError):
        main(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
