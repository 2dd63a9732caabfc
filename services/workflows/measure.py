"""Counts and times executions for /metrics, without a trace in the database."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from dbos import error

from services.runtime import metrics


@contextmanager
def measured(workflow_name: str) -> Iterator[None]:
    """Around a workflow's body: one execution here, with its outcome."""
    begun = time.perf_counter()
    status = "ERROR"
    try:
        yield
        status = "SUCCESS"
    except error.DBOSException:
        # Cancelled, or carried on elsewhere: not an outcome of this execution.
        status = "LEFT"
        raise
    finally:
        metrics.WORKFLOWS_COMPLETED.labels(workflow_name=workflow_name, status=status).inc()
        metrics.WORKFLOW_SECONDS.labels(workflow_name=workflow_name).observe(time.perf_counter() - begun)


@contextmanager
def timed_step(step_name: str) -> Iterator[None]:
    """Around a step's body."""
    begun = time.perf_counter()
    try:
        yield
    finally:
        metrics.STEP_SECONDS.labels(step_name=step_name).observe(time.perf_counter() - begun)
