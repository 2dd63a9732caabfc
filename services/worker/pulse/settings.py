"""The pulse's interval and its option."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from holdfast.settings import Settings

PULSE_SECONDS: Final = 5

# How late a worker may start a tick that was fired or caught up in time.
_START_SECONDS = 5.0


class PulseSettings(Settings):
    """A process's settings with that of the pulse."""

    pulse_catch_up_seconds: float = Field(
        60.0,
        ge=0,
        le=3600,
        description="missed pulses at most this old are caught up; older ones are gaps",
    )

    @property
    def late_tick_seconds(self) -> float:
        """Delay from which a tick is not run any more: it was neither fired nor caught up in time."""
        return self.pulse_catch_up_seconds + _START_SECONDS
