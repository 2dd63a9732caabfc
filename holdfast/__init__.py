"""Holdfast: DBOS applications survive the death of their processes with PostgreSQL alone.

The public names are those of ``__all__``. They load on first use, so that the version and the command line
do not bring DBOS along.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.attached.attach import attach
    from holdfast.durable.registry import (
        Child,
        DbosWorkflow,
        Queue,
        Schedule,
        StepProcessDied,
        StepTimeout,
        Workflow,
        attempt,
        idempotency_key,
        patch_over,
        patched,
        register,
        step,
        workflow,
    )

__version__ = "0.1.0"
__all__ = [
    "Child",
    "DbosWorkflow",
    "Queue",
    "Schedule",
    "StepProcessDied",
    "StepTimeout",
    "Workflow",
    "attach",
    "attempt",
    "idempotency_key",
    "patch_over",
    "patched",
    "register",
    "step",
    "workflow",
]


def __getattr__(name: str) -> Any:
    if name == "attach":
        return import_module("holdfast.attached.attach").attach
    if name in __all__:
        return getattr(import_module("holdfast.durable.registry"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
