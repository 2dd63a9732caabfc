"""How many connections one process opens to PostgreSQL at most. Every pool takes its size from here.

The connection limits of the roles (postgres/roles.sql) are multiples of :func:`most`, and their sum stays
below ``max_connections`` (postgres/postgresql.conf): a test computes both.
"""

from __future__ import annotations

from holdfast.settings import Role, Settings

STEPS = 4
"""Named statements of durable code, trials, retention."""
SESSIONS = 5
"""The statements that every workflow pays for: each short, so few serve any number of workflows."""
EFFECTS = 2
"""The effect ledger's datasource, for transactions of more than one statement."""
PURGE = 1
"""What a purge deletes with, and keeps its turn."""
CLIENT = 8
"""DBOS's client behind the HTTP handlers."""
REQUESTS = 4
"""Named statements of the HTTP handlers and the console."""
FIGURES = 1
"""What /metrics reads, as the role of its own."""

# DBOS's listener, which leaves its pool; our listener, lease and sweep; a drain's hand over, a trial.
_SINGLE = 6
# An operator's adoption opens one of its own; two at once.
_ORDERS = 2


def most(settings: Settings, role: Role) -> int:
    """Connections that a process holds at most under its role's own login."""
    shared = settings.database_pool_size + _SINGLE + STEPS + SESSIONS
    return shared + (CLIENT + REQUESTS + _ORDERS if role == "api" else EFFECTS + PURGE)
