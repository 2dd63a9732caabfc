"""The identity of an attached process, and what its database must have before it can register there."""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import closing

import psycopg2

from holdfast.attached.settings import AttachedSettings
from holdfast.dbos_adapter import launching
from holdfast.dbos_adapter.launching import Configured
from holdfast.dbos_adapter.schema import first_line, unprepared
from holdfast.errors import PoolerSharesSessions
from holdfast.identity import Identity
from holdfast.postgres.database import Connection, connect, query
from holdfast.postgres.outage import RETRY_SECONDS, backed_off, is_outage, lacks_connections, sqlstate
from holdfast.postgres.pooler import require_own_sessions
from holdfast.recovery.blame import EVERY_QUEUE

log = logging.getLogger("holdfast.attached")

# What a server answers that will not answer differently soon: libpq gives no SQLSTATE for it.
_REFUSES = re.compile(
    r"authentication failed|does not exist|pg_hba\.conf|not permitted to log in|permission denied"
)
_RIGHTS_REMEDY = "`holdfast app add` makes a role that has them"


def obstacle(settings: AttachedSettings, configured: Configured) -> str | None:
    """Returns what keeps Holdfast from protecting this application in its database, or None.

    Waits for the end of an outage, because the answer holds for the life of the process.
    """
    deadline = time.monotonic() + settings.database_wait_seconds
    pause_seconds = RETRY_SECONDS
    while True:
        reason, may_pass = _obstacle_now(settings, configured)
        if not may_pass or time.monotonic() >= deadline:
            return reason
        log.warning("waiting for PostgreSQL: %s", reason, extra={"action": "attach.waiting"})
        time.sleep(min(pause_seconds, max(0.0, deadline - time.monotonic())))
        pause_seconds = backed_off(pause_seconds) if lacks_connections(reason or "") else RETRY_SECONDS


def _obstacle_now(settings: AttachedSettings, configured: Configured) -> tuple[str | None, bool]:
    """Returns the obstacle, and whether it may pass by itself."""
    purpose = f"holdfast/{configured.application[:30]}/start"
    try:
        with closing(connect(settings, purpose=purpose)) as connection:
            return _lacking(connection, lambda: connect(settings, purpose=purpose), configured.schema), False
    except PoolerSharesSessions as error:
        return error.message, False
    except psycopg2.errors.InsufficientPrivilege as error:
        return f"its database role lacks rights ({first_line(error)}): {_RIGHTS_REMEDY}", False
    except psycopg2.Error as error:
        may_pass = is_outage(error) and not _REFUSES.search(str(error))
        what = "reached" if sqlstate(error) is None else "used"
        return f"its database cannot be {what}: {first_line(error)}", may_pass


def _lacking(connection: Connection, connect_again: Callable[[], Connection], schema: str) -> str | None:
    require_own_sessions(connection, connect_again)
    if reason := unprepared(connection, schema):
        return f"its database {reason}"
    rights = [row["what"] for row in query(connection, "missing_rights")]
    return f"its database role lacks rights ({', '.join(rights)}): {_RIGHTS_REMEDY}" if rights else None


SUSPECTS_QUEUE, TRIALS_QUEUE = "_holdfast_suspects", "_holdfast_trials"
"""Queues for suspects and trials. Each process registers them for itself, without a row in DBOS's queues."""


def new_identity(settings: AttachedSettings, configured: Configured, *, isolates: bool = True) -> Identity:
    """Creates the identity of a new executor. Its id is never reused, also if the application sets one.

    ``isolates``: its processes run suspects of poison of every queue, so that these may be moved.
    """
    hostname = socket.gethostname()
    prefix = f"{configured.application[:14]}-{hostname[:13]}"
    if configured.executor_id != launching.DEFAULT_EXECUTOR_ID:
        prefix = configured.executor_id[:28]
    return Identity(
        executor_id=f"{re.sub(r'[^A-Za-z0-9_.-]', '_', prefix)}-{secrets.token_hex(4)}",
        application=configured.application,
        version=configured.version,
        role="app",
        hostname=hostname,
        pid=os.getpid(),
        port=settings.port or 0,
        slots=0,
        suspects_queue=SUSPECTS_QUEUE if isolates else "",
        trials_queue=TRIALS_QUEUE if isolates else "",
        leaf_queues=(EVERY_QUEUE,) if isolates else (),
    )
