"""When a process says that it should get no work."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from holdfast.attached.process import AttachedProcess
from holdfast.dbos_adapter.wake_ups import Waker
from holdfast.process.executor import Executor
from holdfast.process.process import Process
from holdfast.settings import STANDSTILL_SECONDS, Settings


def asked(
    clock_seconds: float = 0.0, waker: Waker | None = None, kind: type[Executor] = Process
) -> tuple[bool, dict[str, str]]:
    """``ready`` of a process that is well but for that."""
    # A running process derives its state from what has happened; here it is simply live.
    live: Any = type("Live", (kind,), {"state": "live"})
    process: Any = live.__new__(live)
    process.lease = SimpleNamespace(clock_difference_seconds=clock_seconds, database_up=True)
    process.settings, process.waker = Settings(), waker or Waker()
    return process.ready()  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [Process, AttachedProcess])
@pytest.mark.parametrize(("seconds", "ready"), [(1.9, True), (-1.9, True), (2.1, False), (-2.1, False)])
def test_a_clock_may_be_neither_fast_nor_slow(seconds: float, ready: bool, kind: type[Executor]) -> None:
    assert asked(seconds, kind=kind)[0] is ready


def test_a_process_whose_queues_a_trial_keeps_closed_is_unready_after_a_while() -> None:
    waker = Waker()
    with waker.pause_others("trials"):
        assert asked(waker=waker)[0]
        waker._exclusive_since -= STANDSTILL_SECONDS
        ready, checks = asked(waker=waker)
        assert (ready, checks["queues"]) == (False, "closed for 60 s by a trial")
    assert asked(waker=waker)[0]


def test_a_life_that_an_error_ends_is_drained_and_ended() -> None:
    done: list[str] = []
    process: Any = Process.__new__(Process)

    async def drain() -> None:
        done.append("drained")

    async def live() -> None:
        async with process.life():
            raise ValueError

    process.drain = drain
    process._start, process._end = (lambda: done.append("started")), (lambda: done.append("ended"))
    with pytest.raises(ValueError):
        asyncio.run(live())
    assert done == ["started", "drained", "ended"]
