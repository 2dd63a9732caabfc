"""One worker with a wrong clock, by libfaketime: it is unready, schedules nothing, and harms no other."""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from tests.chaos.ground import GRACE_SECONDS, MIDDLE, Ground, Seen, complete, patiently
from tests.support.native_stack import NativeStack
from tests.support.stack import Stack, free_ports, wait_for

NOTICED_SECONDS = 5.0
"""A few heartbeats: the time that a worker may need to notice a change of its clock."""
START_SECONDS = 120.0
"""Timeout of a process start on a busy machine, under a library that opens a file at each clock read."""
TICKS_SECONDS = 11.0
"""Any interval of this length contains two due ticks."""

# libfaketime 0.9.10 breaks clock_nanosleep, and so time.sleep: it treats an absolute monotonic time as one of
# the clock that it fakes. Python imports this file first.
_SLEEP = """
import threading, time
time.sleep = lambda seconds: (threading.Event().wait(seconds), None)[1]
"""

_LIBRARIES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib*/faketime/libfaketimeMT.so.1")
_ALLOWED = 2.0
"""The default of HOLDFAST_CLOCK_TOLERANCE_SECONDS."""


def library() -> str:
    """Returns the path of libfaketime. Raises ``AssertionError`` with installation instructions."""
    found = [str(path) for pattern in _LIBRARIES for path in Path("/").glob(pattern[1:])]
    assert found, "no libfaketimeMT.so.1: apt-get install faketime"
    return found[0]


class WrongClock:
    """An additional worker with an adjustable wall clock. Its monotonic clock is the machine's."""

    def __init__(self, stack: NativeStack, offset: float) -> None:
        self._file = stack.home / "clock"
        self.set(offset)
        self.port = free_ports(1)
        shim = stack.home / "shim"
        shim.mkdir(exist_ok=True)
        (shim / "sitecustomize.py").write_text(_SLEEP, "utf-8")
        self.process, self.log = stack.spawn(
            "services.worker",
            HOLDFAST_WORKER_PORT=str(self.port),
            PYTHONPATH=str(shim),
            LD_PRELOAD=library(),
            FAKETIME_TIMESTAMP_FILE=str(self._file),
            FAKETIME_NO_CACHE="1",
            FAKETIME_DONT_FAKE_MONOTONIC="1",
            NO_FAKE_STAT="1",
        )

    def set(self, offset: float) -> None:
        """Steps the clock to ``offset`` seconds from the machine's."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{offset:+g}\n", "ascii")
        new.replace(self._file)  # libfaketime reads the file at every clock read

    def readiness(self) -> Any:
        """Returns the document of ``/readyz``, None without an answer."""
        assert self.process.poll() is None, f"it ended: {self.log.read_text('utf-8')[-800:]}"
        with suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=5, trust_env=False).json()
        return None

    def wait(self, *, right: bool, seconds: float, what: str) -> str:
        """Waits until the worker reports this state of its clock and no other fault. Returns its id."""

        def said() -> str | None:
            told = self.readiness()
            if told is None:
                return None
            wrong = {name: text for name, text in told["checks"].items() if text != "ok"}
            as_wanted = not wrong if right else list(wrong) == ["clock"] and "clock" in wrong["clock"]
            return str(told["executor_id"]) if as_wanted else None

        return wait_for(said, seconds, what, pause_seconds=0.1)

    def leave(self) -> tuple[int, float]:
        """Stops the worker in order. Returns its exit code and the seconds that it took."""
        begun = time.monotonic()
        self.process.terminate()
        try:
            return self.process.wait(GRACE_SECONDS + 10), time.monotonic() - begun
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("it did not stop within its grace") from None


def wrong_clock(ground: Ground, *, offset: float) -> Seen:
    stack = ground.stack
    assert isinstance(stack, NativeStack)
    library()
    before, known, begun = ground.ids(), _ticks(stack), time.time()
    other = WrongClock(stack, offset)
    try:
        seen = _steps(ground, other, offset)
    finally:
        other.process.kill()  # has no effect on a process that has ended
        ground.over()
    complete(ground)
    replaced = before - ground.ids()
    assert not replaced, f"others were replaced: {replaced}"
    # Ticks since the beginning, including backfilled ones, but none of the future.
    wild = {at for at in _ticks(stack) - known if not begun - 65 <= at <= time.time() + _ALLOWED}
    assert not wild, f"ticks far from their time: {sorted(wild)[:5]}"
    return seen


def _steps(ground: Ground, other: WrongClock, offset: float) -> Seen:
    executor_id = other.wait(right=False, seconds=START_SECONDS, what="unready for its clock alone")
    batch_id = ground.batch(MIDDLE)
    time.sleep(TICKS_SECONDS)
    other.set(0)
    other.wait(right=True, seconds=NOTICED_SECONDS, what="ready once its clock is right")
    time.sleep(TICKS_SECONDS)
    other.set(-abs(offset))
    stepped = time.monotonic()
    other.wait(right=False, seconds=NOTICED_SECONDS, what="unready once its clock has stepped back")
    noticed = time.monotonic() - stepped
    time.sleep(TICKS_SECONDS)
    code, seconds = other.leave()
    ground.over()
    ground.journal.write("exit", who=executor_id, code=code, seconds=round(seconds, 2))
    told = other.log.read_text("utf-8")
    assert code == 0, f"it ended with {code}: {told[-800:]}"
    assert not ground.stack.pending_under(executor_id), f"{executor_id} left work behind"
    ground.succeeded(batch_id, 60)
    return {
        "noticed_seconds": round(noticed, 2),
        "ticks_dropped": told.count("schedule.dropped"),
        "stop_seconds": round(seconds, 2),
    }


def _ticks(stack: Stack) -> set[float]:
    rows = patiently(
        lambda: stack.query(
            "SELECT extract(epoch FROM substring(workflow_uuid FROM '\\d{4}-.*$')::timestamptz)::float8"
            " AS at FROM dbos.workflow_status WHERE workflow_uuid ~ '^sched-.*-\\d{4}-\\d\\d-'"
        )
    )
    return {row["at"] for row in rows}
