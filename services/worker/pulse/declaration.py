"""The durable names of the pulse, its queue and its schedule of 5 seconds."""

from datetime import timedelta
from typing import Final

from holdfast import DbosWorkflow, Queue, Schedule, register

PULSE_SECONDS: Final = 5

TICK: Final = DbosWorkflow("pulse.tick", label="pulse")
QUEUE: Final = Queue("pulses", [TICK], at_once=4)
SCHEDULE: Final = Schedule(
    "pulse",
    TICK,
    f"*/{PULSE_SECONDS} * * * * *",
    catch_up=lambda settings: timedelta(seconds=settings.pulse_catch_up_seconds) or None,
)
register(QUEUE, schedules=[SCHEDULE], steps=["pulse.record"])
