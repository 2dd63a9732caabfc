"""Counts and times attempts at steps for /metrics. Writes nothing to the database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dbos import DBOS
from dbos import error as dbos_error

from holdfast.observability import metrics

# The workflow was cancelled or continues in another process, so the attempt has no outcome of its own.
# Every other error of DBOS is an outcome.
_LEFT = (
    dbos_error.DBOSWorkflowCancelledError,
    dbos_error.DBOSWorkflowConflictIDError,
    asyncio.CancelledError,
)


@contextmanager
def timed_step(step_name: str) -> Iterator[None]:
    """Wraps a step's body: counts and times one attempt by its outcome."""
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


@contextmanager
def measured(workflow_name: str) -> Iterator[None]:  # noqa: ARG001
    """Does nothing. Deprecated, and removed in the next release: every execution is measured by itself."""
    yield
