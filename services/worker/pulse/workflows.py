"""The pulse: every 5 seconds, one worker writes a row with the system's state."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from dbos import DBOS

from holdfast.durable.measure import measured, timed_step
from holdfast.durable.resources import resources
from services.worker.fibonacci.declaration import NUMBER_QUEUE
from services.worker.pulse.declaration import TICK


@DBOS.step(name="pulse.record")
def record(scheduled_at: str) -> dict[str, Any]:
    """Writes the tick's row. A second run of the same tick changes nothing."""
    with timed_step("pulse.record"):
        rows = resources().ops.run_patiently(
            "record_pulse",
            scheduled_at=scheduled_at,
            workflow_id=DBOS.workflow_id,
            executor_id=resources().executor_id,
            queue_name=NUMBER_QUEUE.name,
            late_seconds=resources().settings.pulse_late_seconds,
        )
        return rows[0] if rows else {"status": "recorded before"}


@DBOS.workflow(name=TICK.name, max_recovery_attempts=None)
def tick(scheduled_at: datetime, context: Any) -> None:  # noqa: ARG001  the scheduler passes both
    """Runs one tick: records scheduled time, lateness, executor, queue depth and live processes."""
    with measured(TICK.name):
        record(scheduled_at.isoformat())
