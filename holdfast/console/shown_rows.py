"""Makes rows of the console's statements safe to show. Any application may have written what they read."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

from holdfast.console.bars import Row

Ask = Callable[..., Awaitable[list[Row]]]
"""Runs a named statement; raises ``DatabaseUnavailable``."""

_LAST_SECOND = 253_402_300_799
"""The end of the year 9999: a browser shows no time much later."""


def with_shown_rows(ask: Ask) -> Ask:
    """Returns `ask` with rows whose times are dates, whose numbers JSON knows, and whose names are texts."""

    async def asked(name: str, /, **params: Any) -> list[Row]:
        return [
            {column: _shown(column, value) for column, value in row.items()}
            for row in await ask(name, **params)
        ]

    return asked


def _shown(column: str, value: Any) -> Any:
    if value is None:
        return "" if column in ("name", "status") else None
    if column.endswith("_ms"):
        return min(max(value, 0), _LAST_SECOND * 1000)
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else float(_LAST_SECOND if value > 0 else 0)
    return value
