"""A claim starts only while this process's lease is up: peers may have declared it dead meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.attached.process import AttachedProcess
    from holdfast.dbos_adapter.slots import Execution

_POLL_SECONDS = 0.02


def admission(process: AttachedProcess) -> Callable[[Any, Any, Execution | None], bool]:
    """Returns what decides whether a claim of this process may start (`Slots.admit`).

    A process that goes on after a pause may claim before it knows that it was declared dead. Peers release a
    claim that does not start, as they release all work of a dead process.
    """
    homes = process.engine.homes

    def is_over() -> bool:
        return process.is_declared_dead or process.drained.is_set()

    def admit(db: Any, status: Any, execution: Execution | None) -> bool:
        while not (process.lease.database_up or is_over()):
            time.sleep(_POLL_SECONDS)
        return not is_over() and homes.admit(db, status, execution)

    return admit
