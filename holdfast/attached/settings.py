"""The options of an attached application. Its database and name come from its own DBOS configuration."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping
from typing import Any, Literal

from holdfast.dbos_adapter.launching import Configured
from holdfast.executor_settings import OPTIONS, ExecutorSettings, Option

_PREFIX = "HOLDFAST_"
_BOOLEANS = {
    **dict.fromkeys(("1", "true", "yes", "on", "t", "y"), True),
    **dict.fromkeys(("0", "false", "no", "off", "f", "n"), False),
}

ATTACHED_OPTIONS = {
    **OPTIONS,
    "required": Option(False, "the application does not start without Holdfast's protection"),
    "on_fenced": Option(
        "exit",
        "what a process does that peers declared dead: end with code 75, or only log it",
        choices=("exit", "log"),
    ),
    "port": Option(None, "port for /livez, /readyz and /metrics; none: no server", ge=0, le=65535),
    "adopt_after_seconds": Option(
        0.0, "age from which work of a version without a live executor is adopted; 0: never", ge=0
    ),
    "database_wait_seconds": Option(15.0, "how long a launch waits for PostgreSQL", ge=0),
}


class AttachedSettings(ExecutorSettings):
    """The options of one attached application, from the environment variables ``HOLDFAST_*``.

    Raises ``ValueError`` with a sentence for each wrong value.
    """

    required: bool
    on_fenced: Literal["exit", "log"]
    port: int | None
    adopt_after_seconds: float

    def __init__(self, configured: Configured, environment: Mapping[str, str] | None = None) -> None:
        self._configured = configured
        given = {
            name.upper(): value
            for name, value in (os.environ if environment is None else environment).items()
        }
        wrong = []
        for name, option in ATTACHED_OPTIONS.items():
            text = given.get(_PREFIX + name.upper())
            try:
                # An empty value means the default, as in Holdfast's own processes.
                setattr(self, name, _parse(text, option) if text else option.default)
            except ValueError as error:
                wrong.append(f"{_PREFIX}{name.upper()}={text}: it must be {error}")
        if wrong:
            raise ValueError("; ".join(wrong))
        self.check_times()

    @property
    def database_url(self) -> str:
        """libpq's connection string of the application's system database."""
        return self._configured.database_url

    @property
    def application_names(self) -> list[str]:
        """The name of the attached application."""
        return [self._configured.application]


def _parse(text: str, option: Option) -> Any:
    """Returns the value. Raises ``ValueError`` with what it must be."""
    if option.choices:
        if text not in option.choices:
            raise ValueError(" or ".join(option.choices))
        return text
    if isinstance(option.default, bool):
        if text.lower() not in _BOOLEANS:
            raise ValueError("true or false")
        return _BOOLEANS[text.lower()]
    if isinstance(option.default, str):
        return text
    is_float = isinstance(option.default, float)
    try:
        number = float(text) if is_float else int(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("a number" if is_float else "a whole number")
    limits = (
        ("greater than", operator.gt, option.gt),
        ("at least", operator.ge, option.ge),
        ("at most", operator.le, option.le),
    )
    for words, holds, limit in limits:
        if limit is not None and not holds(number, limit):
            raise ValueError(f"{words} {limit:g}")
    return number
