"""The drain: no new work, time for running steps, the rest back to the queues."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING

from holdfast.recovery.takeover import HandedOver, hand_over

if TYPE_CHECKING:
    from holdfast.process.process import Process

log = logging.getLogger("holdfast.process")

# A restart of PostgreSQL fits into the first, an answer of a slow one into the second; with the second that
# `parts.stop_all` may take all of it fits into the 5 s between drain and grace.
_HAND_OVER_RETRY_SECONDS = 1.5
_HAND_OVER_SECONDS = 2.5


async def wait_and_hand_over(process: Process) -> int:
    """Stops taking work, waits for running steps, hands over the rest; how many workflows that were."""
    assert process.engine is not None
    await asyncio.to_thread(process.engine.stop_dequeuing)
    handed = await _wait_for_steps(process)
    process.lease.leaving = True
    left = await _hand_over_the_rest(process)
    return handed + (len(left.verdicts) if left else 0)


async def _wait_for_steps(process: Process) -> int:
    """Until no step runs or the time is up; hands over what only waits, and says how many."""
    assert process.engine is not None
    handed = 0
    attempt: asyncio.Future[HandedOver | None] | None = None
    recorded: frozenset[str] | None = None
    again_at = 0.0
    while True:
        if attempt is None and time.monotonic() >= again_at:
            # What only waits goes at once, also what begins to wait meanwhile.
            attempt = _begin_hand_over(process, only_waiting=True)
        if attempt is not None and (await asyncio.wait({attempt}, timeout=0.1))[0]:
            again_at = time.monotonic() + (0.2 if attempt.result() else 1.0)
            if (done := attempt.result()) is not None:
                handed += len(done.verdicts)
                recorded = done.left
                process.engine.waits.released({verdict.work.workflow_id for verdict in done.verdicts})
            attempt = None
        # What is no longer recorded as running here (cancelled, handed over) executes for nothing.
        running = [w for w in process.active() if recorded is None or w in recorded]
        elapsed = process.draining_seconds
        if not running or elapsed >= process.settings.drain_seconds or process.hurry:
            return handed
        await asyncio.sleep(min(0.1, max(0.01, process.settings.drain_seconds - elapsed)))


async def _hand_over_the_rest(process: Process) -> HandedOver | None:
    """None when the database did not let it: peers then wait until they find this executor gone."""
    begun = time.monotonic()
    while True:
        attempt = _begin_hand_over(process, only_waiting=False)
        await asyncio.wait({attempt}, timeout=begun + _HAND_OVER_SECONDS - time.monotonic())
        if not attempt.done():
            log.warning("hand over unanswered", extra={"action": "executor.hand_over_failed"})
            return None
        # Worth a few tries.
        done = attempt.result()
        if done is not None or time.monotonic() - begun >= _HAND_OVER_RETRY_SECONDS:
            return done
        await asyncio.sleep(0.1)


def _begin_hand_over(process: Process, *, only_waiting: bool) -> asyncio.Future[HandedOver | None]:
    """In a thread that nobody has to wait for: what a frozen PostgreSQL never answers has no end."""
    outcome: Future[HandedOver | None] = Future()

    def run() -> None:
        try:
            outcome.set_result(
                hand_over(
                    process.settings,
                    process.identity,
                    only_waiting=only_waiting,
                    drain_seconds=process.draining_seconds,
                )
            )
        except Exception as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="hand-over", daemon=True).start()
    return asyncio.wrap_future(outcome)
