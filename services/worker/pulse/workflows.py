"""The pulse: every 5 seconds, one worker writes a row with the system's state."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from dbos import DBOS

from holdfast import Queue, Schedule, register, step, workflow
from holdfast.runtime import resources
from services.worker.fibonacci.workflows import NUMBER_QUEUE
from services.worker.pulse.settings import PULSE_SECONDS, PulseSettings


@step("pulse.record")
def record(scheduled_at: str) -> dict[str, Any]:
    """Writes the tick's row. A second run of the same tick changes nothing."""
    rows = resources().ops.run_patiently(
        "record_pulse",
        scheduled_at=scheduled_at,
        workflow_id=DBOS.workflow_id,
        executor_id=resources().executor_id,
        queue_name=NUMBER_QUEUE.name,
        late_seconds=PulseSettings.of(resources().settings).late_tick_seconds,
    )
    return rows[0] if rows else {"status": "recorded before"}


@workflow("pulse.tick", label="pulse")
def tick(scheduled_at: datetime) -> None:
    """Runs one tick: records scheduled time, lateness, executor, queue depth and live processes."""
    record(scheduled_at.isoformat())


QUEUE: Final = Queue("pulses", [tick], at_once=4)
SCHEDULE: Final = Schedule(
    "pulse",
    tick,
    f"*/{PULSE_SECONDS} * * * * *",
    catch_up=lambda settings: timedelta(seconds=PulseSettings.of(settings).pulse_catch_up_seconds) or None,
)
register(QUEUE, schedules=[SCHEDULE])
