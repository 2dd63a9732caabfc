"""The showcase's pulse, which the page shows in a lane of its own and not among the workflows."""

from typing import Final

PULSE_TICK: Final = "pulse.tick"
PULSE_SECONDS: Final = 5
