"""Workflows that wait, in a user-defined module: HOLDFAST_MODULES=tests.support.waiting."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from dbos import DBOS, SetWorkflowID

from holdfast.durable.registry import Queue, register, step, workflow


@workflow("waiting.nap")
def nap(seconds: float) -> str:
    """Sleeps."""
    DBOS.sleep(seconds)
    return "awake"


@step("waiting.hold")
def hold(until: str) -> str:
    """Returns once the file exists."""
    while not Path(until).exists():
        time.sleep(0.05)
    return "held"


@workflow("waiting.held")
def held(until: str) -> str:
    """Runs one long step."""
    return hold(until)


@workflow("waiting.family")
def family(until: str) -> str:
    """Waits for a child."""
    return held.enqueue(until).result()


@DBOS.step(name="waiting.fall")
async def _fall() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@DBOS.workflow(name="waiting.branches", max_recovery_attempts=None)
async def branches(seconds: float) -> None:
    """Kills its process in one branch while another one sleeps: a plain DBOS workflow."""

    async def fall_later() -> None:
        await asyncio.sleep(0.5)
        await _fall()

    await asyncio.gather(DBOS.sleep_async(seconds), fall_later())


@workflow("waiting.start_branches")
def start_branches(workflow_id: str) -> str:
    """Enqueues `branches` on the queue of the naps."""
    with SetWorkflowID(workflow_id):
        return DBOS.enqueue_workflow("waiting-naps", branches, 3600.0).get_workflow_id()


register(
    Queue("waiting-naps", [nap], at_once=80),
    Queue("waiting-held", [held], at_once=80),
    Queue("waiting-families", [family, start_branches], at_once=80, parents=True),
)
