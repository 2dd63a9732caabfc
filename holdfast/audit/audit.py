"""What the checks of an audit look at, and how they ask."""

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
    """Names of the workflows that the invariants speak of, and the schedule's grid."""

    batch: str
    sequence: str
    number: str
    tick: str
    purges: list[str]
    poison: str
    scopes: list[str]
    listing: str
    page: str
    tick_seconds: int


@dataclass
class Audit:
    """What the checks look at. ``idle``: all work is expected to have ended.

    ``settle_seconds``: how long a fault may take to heal before its traces count.
    """

    connection: Connection
    settings: Settings
    subjects: Subjects
    journal: Journal | None = None
    idle: bool = False
    settle_seconds: float = 20.0

    def rows(self, name: str, /, **params: Any) -> list[Row]:
        """A named statement's rows. Raises ``psycopg2.Error``."""
        return query(self.connection, name, **params)

    def row(self, name: str, /, **params: Any) -> Row:
        """The only row of a named statement."""
        return self.rows(name, **params)[0]

    def until(self, check: Callable[[], list[str]]) -> list[str]:
        """Troubles that do not go away by themselves within ``settle_seconds``."""
        deadline = time.monotonic() + self.settle_seconds
        while (troubles := check()) and time.monotonic() < deadline:
            time.sleep(0.5)
        return troubles
