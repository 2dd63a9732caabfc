"""Steps with a timeout: each runs in a separate process, which is killed when it takes too long.

The processes are forks of a launcher (step_child.py), which is started with the first such step and imports
the steps' modules once. A step's process leads a process group. The whole group is killed at the timeout,
when the workflow is cancelled, when the step ends, and when this worker is gone. A program that starts a new
session leaves that group.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from itertools import count
from pathlib import Path
from typing import Any

from dbos import PortableWorkflowError

from holdfast.compute import step_child
from holdfast.compute.cpu_child import receive, send
from holdfast.dbos_adapter.cancelling import Cancellation
from holdfast.errors import CpuCancelled, StepProcessDied, StepTimeout

log = logging.getLogger("holdfast.steps")

_FILE = Path(step_child.__file__)
_START_SECONDS = 60.0
# Time limit for the report that a killed group has ended. The next attempt must not start beside it.
_END_SECONDS = 5.0


class StepProcesses:
    """The step processes of this worker. Thread-safe. `modules` returns the modules to import at start."""

    def __init__(self, modules: Callable[[], Sequence[str]]) -> None:
        self._modules = modules
        self._lock = threading.Lock()
        self._numbers = count()
        self._launcher: tuple[subprocess.Popen[bytes], socket.socket] | None = None

    def run(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        *,
        timeout_seconds: float,
        cancellation: Cancellation | None = None,
    ) -> Any:
        """Runs ``function(*args)`` in a new process; function and arguments are pickled.

        Raises the function's error, `StepTimeout`, `StepProcessDied`, and `CpuCancelled` if the
        `cancellation` came first.
        """
        payload = pickle.dumps((function, args))
        number, channel = self._start()
        cancelled = threading.Event()

        def cancel() -> None:
            cancelled.set()
            self._end(number)

        deadline = time.monotonic() + timeout_seconds
        with channel, cancellation.ending(cancel) if cancellation else nullcontext():
            try:
                channel.settimeout(timeout_seconds)
                send(channel, payload)
                channel.settimeout(max(0.001, deadline - time.monotonic()))
                outcome = receive(channel)
            except TimeoutError:
                self._end(number)
                channel.settimeout(_END_SECONDS)
                with suppress(OSError, EOFError):
                    while pickle.loads(receive(channel))[0] != "ended":  # noqa: S301 - from our own child
                        continue
                raise StepTimeout(
                    f"The step took longer than {timeout_seconds:g} s, and its process was killed."
                ) from None
            except (OSError, EOFError) as error:
                raise StepProcessDied(f"The process of the step is gone ({error}).") from error
        return _value(outcome, cancelled=cancelled.is_set())

    def close(self) -> None:
        """Ends the launcher and the processes of all steps. Idempotent."""
        with self._lock:
            self._forget()

    def _start(self) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            number = next(self._numbers)
            message = step_child.MESSAGE.pack(step_child.RUN, number)
            try:
                try:
                    socket.send_fds(self._channel(), [message], [theirs.fileno()])
                except OSError:
                    # The launcher has died since the last step.
                    self._forget()
                    socket.send_fds(self._channel(), [message], [theirs.fileno()])
            except BaseException:
                ours.close()
                raise
        return number, ours

    def _end(self, number: int) -> None:
        with self._lock, suppress(OSError):
            if self._launcher is not None:
                self._launcher[1].sendall(step_child.MESSAGE.pack(step_child.END, number))

    def _channel(self) -> socket.socket:
        if self._launcher is None or self._launcher[0].poll() is not None:
            self._forget()
            self._launcher = _started(self._modules())
        return self._launcher[1]

    def _forget(self) -> None:
        if self._launcher is not None:
            process, channel = self._launcher
            self._launcher = None
            channel.close()
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _started(modules: Sequence[str]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    begun = time.monotonic()
    try:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", str(_FILE), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        ours.settimeout(_START_SECONDS)
        path = [entry or os.getcwd() for entry in sys.path]  # noqa: PTH109 - what "" means
        send(ours, pickle.dumps((path, list(modules))))
        reply = receive(ours)
    except (OSError, EOFError) as error:
        ours.close()
        raise StepProcessDied(f"The launcher of steps does not start ({error}).") from error
    if reply != step_child.READY:
        ours.close()
        process.wait()
        raise StepProcessDied(f"The launcher of steps does not start:\n{reply.decode()}")
    ours.settimeout(None)
    log.info(
        "launcher of steps started in %.2f s", time.monotonic() - begun, extra={"action": "steps.launcher"}
    )
    return process, ours


def _value(outcome: bytes, *, cancelled: bool) -> Any:
    succeeded, value = pickle.loads(outcome)  # noqa: S301 - from our own child
    if succeeded is True:
        return value
    if succeeded is False:
        raise value
    if succeeded is None:
        classes, text = value
        made = PortableWorkflowError(text, classes[0])
        made.classes = classes  # type: ignore[attr-defined]
        made.final = Exception.__name__ not in classes  # type: ignore[attr-defined]
        raise made
    if cancelled:
        raise CpuCancelled
    if succeeded == "ended":
        cause = f"signal {-value}" if value < 0 else f"exit code {value}"
        raise StepProcessDied(f"The process of the step ended without a result ({cause}).")
    raise StepProcessDied(f"The process of the step was not started: {value}.")
