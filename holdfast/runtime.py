"""Public: what the bodies of workflows and steps find in their process.

``resources()`` are the process's settings, id, database statements and wake-ups and, in a worker, its child
processes for CPU work and its effect ledger. ``timed_step`` wraps the bodies of steps that DBOS's own
decorators declare; ``holdfast.step`` measures by itself. ``measured`` is deprecated and does
nothing. ``enqueue_missing`` and ``until_unfinished`` start any number of children and wait for them.
``trace_attributes()`` are stored with the children, and ``traced`` wraps the start of a single child, so that
their spans belong to the parent's trace.
"""

from holdfast.dbos_adapter.cancelling import Cancellation
from holdfast.durable.child_workflows import AT_ONCE, enqueue_missing, until_unfinished
from holdfast.durable.measure import measured, timed_step
from holdfast.durable.resources import Resources, resources
from holdfast.observability.metrics import SECONDS
from holdfast.observability.tracing import attributes as trace_attributes
from holdfast.observability.tracing import propagated as traced

__all__ = [
    "AT_ONCE",
    "SECONDS",
    "Cancellation",
    "Resources",
    "enqueue_missing",
    "measured",
    "resources",
    "timed_step",
    "trace_attributes",
    "traced",
    "until_unfinished",
]
