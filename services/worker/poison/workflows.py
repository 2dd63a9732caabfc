"""A workflow that kills its process, to test parking. It runs only where chaos is allowed."""

from __future__ import annotations

import os
import signal

from dbos import DBOS

from holdfast.durable.measure import measured, timed_step
from holdfast.durable.resources import resources
from holdfast.errors import ChaosDisabled
from services.worker.poison.declaration import POISON


@DBOS.step(name="chaos.kill_process")
def kill_process() -> None:
    """Kills this process with SIGKILL. Raises ``ChaosDisabled`` where chaos is off."""
    with timed_step("chaos.kill_process"):
        if not resources().settings.chaos:
            raise ChaosDisabled
        os.kill(os.getpid(), signal.SIGKILL)


@DBOS.workflow(name=POISON.name, max_recovery_attempts=None)
def poison() -> None:
    """Poison: kills every process that runs it."""
    with measured(POISON.name):
        kill_process()
