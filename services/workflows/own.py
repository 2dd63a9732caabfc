"""The former import path of the public names. New modules write ``from holdfast import ...``."""

from holdfast import (
    Child,
    Queue,
    Schedule,
    StepProcessDied,
    StepTimeout,
    Workflow,
    idempotency_key,
    patch_over,
    patched,
    register,
    step,
    workflow,
)

__all__ = [
    "Child",
    "Queue",
    "Schedule",
    "StepProcessDied",
    "StepTimeout",
    "Workflow",
    "idempotency_key",
    "patch_over",
    "patched",
    "register",
    "step",
    "workflow",
]
