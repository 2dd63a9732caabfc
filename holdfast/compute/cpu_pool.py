"""Child processes for CPU work that can be killed one by one, and die with this process.

A library was measured first: its children import the worker's whole main module (78 MB and 0.5 s
each, ours 18 MB and 0.04 s) and keep computing after their parent was killed.
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
# So long its end takes at most where it only waits for a CPU: killed earlier, it could not say why it died.
_EXIT_SECONDS = 2.0
_FIRST_BACKOFF_SECONDS, _LAST_BACKOFF_SECONDS = 0.1, 5.0


@dataclass(frozen=True)
class CpuResult(Generic[T]):
    """What the function returned, in which process, and how long it took there."""

    value: T
    pid: int
    seconds: float


@dataclass(eq=False)
class _Job:
    payload: bytes
    future: Future[CpuResult[Any]] = field(default_factory=Future)


class CpuPool:
    """`slots` child processes, started at once; each runs one task at a time, first come first served.

    Every slot has a thread that starts its child, reads its answers, and replaces it when it dies.
    `preload` names modules that a child imports before its first task. Functions and arguments travel
    by pickle, so a function must be importable by name, and not from ``__main__``.
    """

    def __init__(self, slots: int, *, preload: Sequence[str] = ()) -> None:
        if slots < 1:
            raise ValueError("slots must be at least 1")
        self._setup = pickle.dumps(([*sys.path, _PROJECT_ROOT], tuple(preload)))
        self._changed = threading.Condition()
        self._children: list[ChildProcess | None] = [None] * slots
        self._waiting: deque[_Job] = deque()
        self._closed = False
        # Daemons: a forgotten close() must not keep the interpreter from ending.
        self._threads = [
            threading.Thread(target=self._keep_slot, args=(index,), name=f"cpu-slot-{index}", daemon=True)
            for index in range(slots)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, function: Callable[[*Ts], T], /, *args: *Ts) -> CpuResult[T]:
        """Run ``function(*args)`` in a child, from any event loop. Cancelling kills that child at once.

        Raises what the function raises, `CpuChildDied` when its process died, `CpuPoolClosed`.
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
        """The same for threads. The child is killed after `timeout_seconds`, which raises ``TimeoutError``,
        and by the `cancellation`, which raises `CpuCancelled`.
        """
        job = self._submit(function, args)
        ending = cancellation.ending(lambda: _resolve(job, CpuCancelled())) if cancellation else nullcontext()
        try:
            with ending:
                return job.future.result(timeout_seconds)
        finally:
            self._abandon(job)

    def wait_ready(self, timeout_seconds: float) -> bool:
        """Block until no slot is starting; False when that took too long. The log says why a child fails."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.states()["starting"], timeout_seconds)

    def states(self) -> dict[str, int]:
        """Slots by state: idle, busy, starting. All zero once closed."""
        counts = {"idle": 0, "busy": 0, "starting": 0}
        with self._changed:
            for child in () if self._closed else self._children:
                usable = child is not None and child.ready and not child.doomed
                counts["starting" if not usable else "busy" if child and child.job else "idle"] += 1
        return counts

    def pids(self) -> list[int]:
        """Process ids of the children, in the order of their slots, without dead ones."""
        with self._changed:
            return [child.process.pid for child in self._children if child and not child.doomed]

    def close(self, kill: bool = True) -> None:
        """End all children and wait for it: at once, or with ``kill=False`` after their running tasks.

        What waits for a slot, and what is killed, raises `CpuPoolClosed`, as every later call does.
        Idempotent; a second call with ``kill=True`` cuts a patient one short.
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
        """Nobody waits for `job` any more: take it out of the line, or kill the child that runs it."""
        with self._changed:
            with suppress(ValueError):
                self._waiting.remove(job)
            for child in filter(None, self._children):
                if child.job is job:
                    child.kill()

    def _dispatch(self) -> None:
        """Hand waiting jobs to idle children. Called with the lock held."""
        for child in filter(None, self._children):
            if not self._waiting:
                return
            # poll() sees a child that was killed a moment ago, before its thread has read the end of file.
            if child.ready and not child.doomed and child.job is None and child.process.poll() is None:
                child.job = self._waiting.popleft()
                with suppress(OSError):  # then the end of file follows, and with it CpuChildDied
                    cpu_child.send(child.channel, child.job.payload)

    def _keep_slot(self, index: int) -> None:
        # A child inherits this thread's mask, so a Ctrl-C or a signal to the group never reaches it: the
        # parent decides. And it dies with this very thread (PDEATHSIG), which lives as long as the pool.
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
        """Start one child and serve it until it dies. False when it never became ready."""
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
        self._bury(index, child)
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

    def _bury(self, index: int, child: ChildProcess) -> None:
        child.channel.close()  # its end of file, should it still live
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
    with suppress(InvalidStateError):  # cancelled: nobody waits for it
        if isinstance(outcome, BaseException):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)
