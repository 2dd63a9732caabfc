"""What the runtime offers to durable code: set once at start, read by workflows and steps."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.compute.cpu_pool import CpuPool
from holdfast.dbos_adapter.ledger import EffectLedger
from holdfast.dbos_adapter.wake_ups import Waker
from holdfast.postgres.database import OpsPool
from holdfast.settings import Settings


@dataclass(frozen=True)
class Resources:
    """The process's own means. ``pool`` and ``ledger`` exist on workers only."""

    settings: Settings
    executor_id: str
    ops: OpsPool
    waker: Waker
    pool: CpuPool | None = None
    ledger: EffectLedger | None = None


_current: Resources | None = None


def provide(resources: Resources | None) -> None:
    """Sets what :func:`resources` returns; None at the end of a process's life."""
    global _current  # noqa: PLW0603
    _current = resources


def resources() -> Resources:
    """The process's means; raises ``RuntimeError`` outside a started process."""
    if _current is None:
        raise RuntimeError("no Holdfast process is running here: start one through holdfast.process.process")
    return _current
