"""A workflow that kills its process, to test parking. It runs only where chaos is allowed.

Its queue is that of the Fibonacci numbers: poison runs among ordinary work.
"""

from __future__ import annotations

import os
import signal

from holdfast import step, workflow
from holdfast.errors import ChaosDisabled
from holdfast.runtime import resources


@step("chaos.kill_process")
def kill_process() -> None:
    """Kills this process with SIGKILL. Raises ``ChaosDisabled`` where chaos is off."""
    if not resources().settings.chaos:
        raise ChaosDisabled
    os.kill(os.getpid(), signal.SIGKILL)


@workflow("chaos.poison", label="poison")
def poison() -> None:
    """Poison: kills every process that runs it."""
    kill_process()
