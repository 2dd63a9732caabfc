"""The process's resources for durable code. They are set once at start; workflows and steps read them."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.compute.cpu_pool import CpuPool
from holdfast.dbos_adapter.ledger import EffectLedger
from holdfast.dbos_adapter.wake_ups import Waker
from holdfast.postgres.database import OpsPool
from holdfast.settings import Settings


@dataclass(frozen=True)
class Resources:
    """The resources of this process. Only workers have ``pool`` and ``ledger``."""

    settings: Settings
    executor_id: str
    ops: OpsPool
    waker: Waker
    pool: CpuPool | None = None
    ledger: EffectLedger | None = None


_current: Resources | None = None


def provide(resources: Resources | None) -> None:
    """Sets the value that :func:`resources` returns. The process passes None when it ends."""
    global _current  # noqa: PLW0603
    _current = resources


def resources() -> Resources:
    """Returns the process's resources. Raises ``RuntimeError`` outside a started process."""
    if _current is None:
        raise RuntimeError("no Holdfast process is running here: start one through holdfast.process.process")
    return _current
