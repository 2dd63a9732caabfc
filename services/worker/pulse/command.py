"""The pulse's lane in ``holdfast watch``."""

from __future__ import annotations

from typing import Any

from holdfast.commands import WatchLane
from services.worker.pulse.settings import PULSE_SECONDS

_MARKS = {"run": "|", "skipped": "·", "missed": "·"}


def _draw(snapshot: dict[str, Any]) -> str:
    ticks = sorted(snapshot["pulses"], key=lambda pulse: pulse["scheduled_at"])
    return "".join(_MARKS[tick["status"]] for tick in ticks)


PULSE = WatchLane(f"pulse every {PULSE_SECONDS} s", _draw)
