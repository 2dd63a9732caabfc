"""Child processes for CPU work. Each can be killed separately, and all die with this process.

Pebble was measured first. Its children import the worker's whole main module (78 MB and 0.5 s each, ours
18 MB and 0.04 s) and continue to compute after their parent is killed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, TypeVarTuple

from holdfast.compute import cpu_child
from holdfast.compute.child_process import ChildProcess, cause, report_death, start_child
from holdfast.dbos_adapter.cancelling import Cancellation
from holdfast.errors import CpuCancelled, CpuChildDied, CpuPoolClosed

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_log = logging.getLogger(__name__)
_PROJECT_ROOT = str(Path(cpu_child.__file__).parents[2])
_PARENTS_DECISION = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
_CLOSE_SECONDS = 0.5
# Grace period before SIGKILL. A child starved of CPU may need this long to exit and flush its stderr.
_EXIT_SECONDS = 2.0
_FIRST_BACKOFF_SECONDS, _LAST_BACKOFF_SECONDS = 0.1, 5.0


@dataclass(frozen=True)
class CpuResult(Generic[T]):
    """The value that a function returned, the pid of its process, and its duration in seconds."""

    value: T
    pid: int
    seconds: float


@dataclass(eq=False)
class _Job:
    payload: bytes
    future: Future[CpuResult[Any]] = field(default_factory=Future)


class CpuPool:
    """A pool of `slots` child processes, started immediately. Each runs one task at a time, in FIFO order.

    Every slot has a thread that starts its child, reads its answers, and replaces it when it dies. A child
    imports the modules in `preload` before its first task. Functions and arguments are pickled, so a function
    must be importable by name, and not from ``__main__``.
    """

    def __init__(self, slots: int, *, preload: Sequence[str] = ()) -> None:
        if slots < 1:
            raise ValueError("slots must be at least 1")
        self._setup = pickle.dumps(([*sys.path, _PROJECT_ROOT], tuple(preload)))
        self._changed = threading.Condition()
        self._children: list[ChildProcess | None] = [None] * slots
        self._waiting: deque[_Job] = deque()
        self._closed = False
        # Daemon threads: without a call of close() the interpreter must still be able to exit.
        self._threads = [
            threading.Thread(target=self._keep_slot, args=(index,), name=f"cpu-slot-{index}", daemon=True)
            for index in range(slots)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, function: Callable[[*Ts], T], /, *args: *Ts) -> CpuResult[T]:
        """Runs ``function(*args)`` in a child, from any event loop. A cancellation kills that child.

        Raises the function's error, `CpuChildDied` if its process died, and `CpuPoolClosed`.
        """
        job = self._submit(function, args)
        try:
            return await asyncio.wrap_future(job.future)
        finally:
            self._abandon(job)

    def run_sync(
        self,
        function: Callable[[*Ts], T],
        /,
        *args: *Ts,
        timeout_seconds: float | None = None,
        cancellation: Cancellation | None = None,
    ) -> CpuResult[T]:
        """Runs ``function(*args)`` in a child and blocks the thread, otherwise like `run`.

        Kills the child after `timeout_seconds` and raises ``TimeoutError``, or kills it on the `cancellation`
        and raises `CpuCancelled`.
        """
        job = self._submit(function, args)
        ending = cancellation.ending(lambda: _resolve(job, CpuCancelled())) if cancellation else nullcontext()
        try:
            with ending:
                return job.future.result(timeout_seconds)
        finally:
            self._abandon(job)

    def wait_ready(self, timeout_seconds: float) -> bool:
        """Blocks until no slot is starting. Returns False on a timeout; the log has the reason."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.states()["starting"], timeout_seconds)

    def states(self) -> dict[str, int]:
        """Returns the number of slots by state: idle, busy, starting. All are zero after `close`."""
        counts = {"idle": 0, "busy": 0, "starting": 0}
        with self._changed:
            for child in () if self._closed else self._children:
                usable = child is not None and child.ready and not child.doomed
                counts["starting" if not usable else "busy" if child and child.job else "idle"] += 1
        return counts

    def pids(self) -> list[int]:
        """Returns the process ids of the living children, in the order of their slots."""
        with self._changed:
            return [child.process.pid for child in self._children if child and not child.doomed]

    def close(self, kill: bool = True) -> None:
        """Ends all children and waits for it: kills them, or lets running tasks end if `kill` is False.

        Waiting and killed tasks raise `CpuPoolClosed`, as does every later call. Idempotent. A second call
        with ``kill=True`` ends the wait of a call with ``kill=False``.
        """
        with self._changed:
            self._closed = True
            waiting, self._waiting = self._waiting, deque()
            for child in filter(None, self._children):
                if kill:
                    child.kill()
                elif child.job is None:
                    child.channel.shutdown(socket.SHUT_RDWR)
        for job in waiting:
            _resolve(job, CpuPoolClosed())
        for thread in self._threads:
            thread.join(_CLOSE_SECONDS if kill else None)

    def _submit(self, function: Callable[..., T], args: tuple[Any, ...]) -> _Job:
        job = _Job(pickle.dumps((function, args)))
        with self._changed:
            if self._closed:
                raise CpuPoolClosed
            self._waiting.append(job)
            self._dispatch()
        return job

    def _abandon(self, job: _Job) -> None:
        """Removes a `job` that has no caller any more from the queue, or kills the child that runs it."""
        with self._changed:
            with suppress(ValueError):
                self._waiting.remove(job)
            for child in filter(None, self._children):
                if child.job is job:
                    child.kill()

    def _dispatch(self) -> None:
        """Sends waiting jobs to idle children. The caller holds the lock."""
        for child in filter(None, self._children):
            if not self._waiting:
                return
            # poll() detects a killed child before its thread has read the end of file.
            if child.ready and not child.doomed and child.job is None and child.process.poll() is None:
                child.job = self._waiting.popleft()
                with suppress(OSError):  # the end of file follows, which leads to CpuChildDied
                    cpu_child.send(child.channel, child.job.payload)

    def _keep_slot(self, index: int) -> None:
        # A child inherits this thread's signal mask, so a Ctrl-C or a signal to the group never reaches it:
        # the parent decides. The child dies with this thread (PDEATHSIG), which lives as long as the pool.
        signal.pthread_sigmask(signal.SIG_BLOCK, _PARENTS_DECISION)
        backoff_seconds = _FIRST_BACKOFF_SECONDS
        while not self._closed:
            try:
                served = self._serve(index)
            except OSError as error:
                served = False
                _log.warning("child not started: %s", error, extra={"action": "cpu_pool.child_failed"})
            if served:
                backoff_seconds = _FIRST_BACKOFF_SECONDS
                continue
            with self._changed:
                self._changed.wait_for(lambda: self._closed, backoff_seconds)
            backoff_seconds = min(backoff_seconds * 2, _LAST_BACKOFF_SECONDS)

    def _serve(self, index: int) -> bool:
        """Starts one child and serves it until it dies. Returns False if it never became ready."""
        child = start_child()
        with self._changed:
            self._children[index] = child
            if self._closed:
                child.kill()
        with suppress(EOFError, OSError):
            cpu_child.send(child.channel, self._setup)
            cpu_child.receive(child.channel)
            with self._changed:
                child.ready = True
                self._dispatch()
                self._changed.notify_all()
            while not (self._closed and child.job is None):
                self._finish(child, cpu_child.receive(child.channel))
        self._reap(index, child)
        return child.ready

    def _finish(self, child: ChildProcess, answer: bytes) -> None:
        with self._changed:
            job, child.job = child.job, None
            if not self._closed:
                self._dispatch()
        if job is None:
            return
        try:
            succeeded, value, seconds = pickle.loads(answer)  # noqa: S301 - from our own child
        except Exception as error:
            succeeded, value, seconds = False, error, 0.0
        _resolve(job, CpuResult(value, child.process.pid, seconds) if succeeded else value)

    def _reap(self, index: int, child: ChildProcess) -> None:
        child.channel.close()  # a child that still lives reads the end of file and exits
        if not child.doomed:
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(_EXIT_SECONDS)
        child.process.kill()
        code = child.process.wait()
        with self._changed:
            job, child.job = child.job, None
            self._children[index] = None
            expected = child.doomed or self._closed
            self._changed.notify_all()
        if not expected:
            report_death(child, code)
        os.close(child.stderr)
        if job is not None:
            died = (
                f"The child process {child.process.pid} died while computing ({cause(code)}). Run it again."
            )
            _resolve(job, CpuPoolClosed() if self._closed else CpuChildDied(died))


def _resolve(job: _Job, outcome: CpuResult[Any] | BaseException) -> None:
    with suppress(InvalidStateError):  # cancelled: the caller has gone
        if isinstance(outcome, BaseException):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)
