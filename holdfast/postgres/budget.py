"""The maximum number of PostgreSQL connections of one process. Every pool takes its size from here.

The connection limits of the roles (postgres/roles.sql) are multiples of :func:`max_connections`. Their sum
stays below the server's ``max_connections`` (postgres/postgresql.conf). A test computes both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.settings import Role, Settings

STEPS = 4
"""Pool for named statements of durable code, trials and retention."""
SESSIONS = 5
"""Pool for the statements that every workflow runs. They are short, so a few connections are enough."""
EFFECTS = 2
"""Pool of the effect ledger's datasource, for transactions of more than one statement."""
PURGE = 1
"""The connection of a purge, which deletes rows and holds the purge lock."""
CLIENT = 8
"""Pool of the DBOS client that the HTTP handlers use."""
REQUESTS = 4
"""Pool for named statements of the HTTP handlers and the console."""
METRICS = 1
"""Pool of /metrics, under its own role."""

OPERATIONS = 1
"""The connection of the thread that carries out control operations."""

# DBOS's listener, which is outside its pool; our listener, lease and sweep; a drain's handover; a trial.
_SINGLE = 6


def max_connections(settings: Settings, role: Role) -> int:
    """Returns the maximum number of connections that a process holds under its role's own login."""
    shared = settings.database_pool_size + _SINGLE + STEPS + SESSIONS
    return shared + (CLIENT + REQUESTS + OPERATIONS if role == "api" else EFFECTS + PURGE)
