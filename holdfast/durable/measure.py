"""Counts and times executions for /metrics, without a trace in the database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dbos import DBOS
from dbos import error as dbos_error

from holdfast.observability import metrics, tracing

# Cancelled, or carried on elsewhere: not an outcome of this execution. Any other error of DBOS's is one.
_LEFT = (
    dbos_error.DBOSWorkflowCancelledError,
    dbos_error.DBOSWorkflowConflictIDError,
    asyncio.CancelledError,
)


@contextmanager
def measured(workflow_name: str) -> Iterator[None]:
    """Around a workflow's body: one execution here, with its outcome."""
    begun = time.perf_counter()
    status = "ERROR"
    tracing.mark_run()
    try:
        yield
        status = "SUCCESS"
    except _LEFT:
        status = "LEFT"
        raise
    finally:
        metrics.WORKFLOWS_COMPLETED.labels(workflow_name=workflow_name, status=status).inc()
        seconds = time.perf_counter() - begun
        metrics.WORKFLOW_SECONDS.labels(workflow_name=workflow_name, status=status).observe(seconds)


@contextmanager
def timed_step(step_name: str) -> Iterator[None]:
    """Around a step's body: one attempt, with its outcome."""
    begun = time.perf_counter()
    step = DBOS.step_status
    if step is not None and step.current_attempt:
        metrics.STEP_RETRIES.labels(step_name=step_name).inc()
    status = "ERROR"
    try:
        yield
        status = "SUCCESS"
    except _LEFT:
        status = "LEFT"
        raise
    finally:
        seconds = time.perf_counter() - begun
        metrics.STEP_SECONDS.labels(step_name=step_name, status=status).observe(seconds)
