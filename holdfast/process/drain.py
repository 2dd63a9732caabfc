"""The drain: takes no new work, waits for running steps, and hands over the rest to the queues."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import Future
from typing import NamedTuple, Protocol

from holdfast.executor_settings import ExecutorSettings
from holdfast.identity import Identity
from holdfast.process.engine import AttachedEngine
from holdfast.recovery.lease import Lease
from holdfast.recovery.takeover import HandoverResult, hand_over

log = logging.getLogger("holdfast.process")

# Retries of the last handover begin within the first time, which covers a restart of PostgreSQL. The other is
# the limit of the whole handover, for a slow answer. With the second of `parts.stop_all`, they
# fit into the 5 s between the drain limit and the end of the grace period, when the container is killed.
_HAND_OVER_RETRY_SECONDS = 1.5
_HAND_OVER_SECONDS = 2.5


class Draining(Protocol):
    """A process that drains: one of Holdfast's own, or one with an attached application."""

    identity: Identity
    lease: Lease
    hurry: bool
    """Whether to wait no longer for running steps."""
    ends: bool
    """Whether nothing can start a workflow here any more, so that the drain is over when nothing runs."""

    @property
    def settings(self) -> ExecutorSettings:
        """The options."""

    @property
    def engine(self) -> AttachedEngine | None:
        """The application, once it is constructed."""

    @property
    def draining_seconds(self) -> float:
        """Time since the drain began."""

    def active(self) -> list[str]:
        """Returns the ids of the workflows that run here."""


class Drained(NamedTuple):
    """How a drain ended."""

    handed: int
    """Workflows that it handed over."""
    is_whole: bool
    """Whether the rest was handed over and the executor signed off. Otherwise peers must notice its end."""


async def wait_and_hand_over(process: Draining) -> Drained:
    """Stops taking work, waits for running steps, and hands over the rest."""
    assert process.engine is not None
    await asyncio.to_thread(process.engine.stop_dequeuing)
    handed = await _wait_for_steps(process)
    process.lease.leaving = True
    left = await _hand_over_the_rest(process)
    return Drained(handed + (len(left.verdicts) if left else 0), is_whole=left is not None)


async def _wait_for_steps(process: Draining) -> int:
    """Waits until no step runs or the time is over. Returns how many waiting workflows it handed over."""
    assert process.engine is not None
    handed = 0
    attempt: asyncio.Future[HandoverResult | None] | None = None
    recorded: frozenset[str] | None = None
    again_at = 0.0
    while True:
        if attempt is None and time.monotonic() >= again_at:
            # Waiting workflows are handed over immediately, also those that begin to wait during the drain.
            attempt = _begin_hand_over(process, only_waiting=True)
        if attempt is not None and (await asyncio.wait({attempt}, timeout=0.1))[0]:
            again_at = time.monotonic() + (0.2 if attempt.result() else 1.0)
            if (done := attempt.result()) is not None:
                handed += len(done.verdicts)
                recorded = done.left
                process.engine.waits.released({verdict.work.workflow_id for verdict in done.verdicts})
            attempt = None
        # A workflow that is no longer recorded as running here (cancelled, handed over) executes in vain.
        running = [w for w in process.active() if recorded is None or w in recorded]
        elapsed = process.draining_seconds
        if (process.ends and not running) or elapsed >= process.settings.drain_seconds or process.hurry:
            return handed
        await asyncio.sleep(min(0.1, max(0.01, process.settings.drain_seconds - elapsed)))


async def _hand_over_the_rest(process: Draining) -> HandoverResult | None:
    """Hands over all remaining work. None if the database fails: peers then detect this executor's death."""
    begun = time.monotonic()
    while True:
        attempt = _begin_hand_over(process, only_waiting=False)
        await asyncio.wait({attempt}, timeout=begun + _HAND_OVER_SECONDS - time.monotonic())
        if not attempt.done():
            log.warning(
                "PostgreSQL did not answer the handover", extra={"action": "executor.hand_over_failed"}
            )
            return None
        # A failure may be short, so retry.
        done = attempt.result()
        if done is not None or time.monotonic() - begun >= _HAND_OVER_RETRY_SECONDS:
            return done
        await asyncio.sleep(0.1)


def _begin_hand_over(process: Draining, *, only_waiting: bool) -> asyncio.Future[HandoverResult | None]:
    """Hands over in a daemon thread, because a call to a frozen PostgreSQL never returns."""
    outcome: Future[HandoverResult | None] = Future()

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
