"""The input of the audit's checks, and their queries."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from holdfast.audit.journal import Journal
from holdfast.postgres.database import Connection, Row, query
from holdfast.settings import Settings


@dataclass(frozen=True)
class Subjects:
    """What an application registers for the audit: names of its workflows, and the times of its schedule.

    A ``holdfast_commands`` module defines it as ``SUBJECTS`` (`holdfast.cli.extensions`).
    """

    batch: str
    sequence: str
    number: str
    tick: str
    poison: str
    scopes: list[str]
    listing: str
    page: str
    tick_seconds: int
    tick_catch_up_seconds: Callable[[], float]
    """Returns the age up to which missed ticks are caught up."""
    late_tick_seconds: Callable[[], float]
    """Returns the delay from which a tick does not run any more."""


@dataclass
class Audit:
    """The input of the checks. ``idle``: all work is expected to have ended.

    ``settle_seconds``: a fault whose traces disappear within this time does not count.
    """

    connection: Connection
    settings: Settings
    subjects: Subjects | None = None
    journal: Journal | None = None
    idle: bool = False
    settle_seconds: float = 20.0

    @property
    def poison(self) -> str | None:
        """The name of the workflow that is poison on purpose."""
        return self.subjects.poison if self.subjects else None

    def rows(self, name: str, /, **params: Any) -> list[Row]:
        """Returns the rows of a named statement. Raises ``psycopg2.Error``."""
        return query(self.connection, name, **params)

    def row(self, name: str, /, **params: Any) -> Row:
        """Returns the only row of a named statement."""
        return self.rows(name, **params)[0]

    def until(self, check: Callable[[], list[str]]) -> list[str]:
        """Returns the violations that remain after ``settle_seconds``."""
        deadline = time.monotonic() + self.settle_seconds
        while (violations := check()) and time.monotonic() < deadline:
            time.sleep(0.5)
        return violations
