"""Keeps the latest version of the application correct, because every schedule enqueues its work for that one.

For DBOS the latest version is the one whose first registration is the newest, even if no executor runs it any
more. After a rollback, or after a canary is removed, no executor would run the scheduled work.
"""

from __future__ import annotations

import logging

import psycopg2

from holdfast.identity import Identity
from holdfast.postgres.database import OpsPool

log = logging.getLogger("holdfast.versions")


def settle_latest(ops: OpsPool, identity: Identity, *, starting: bool = False) -> None:
    """Makes a live version the latest one if no executor runs the present latest version.

    ``starting`` is set once this executor has registered. Then a live version also replaces an older latest
    version, which became the latest while the newer one was away. Logs and returns if the database is away.
    """
    try:
        rows = ops.run("settle_latest_version", application=identity.application, starting=starting)
    except psycopg2.Error as error:
        log.warning(
            "cannot settle the latest version: %s",
            str(error).strip(),
            extra={"action": "version.not_settled"},
        )
        return
    for row in rows:
        log.warning(
            "schedules now run on version %s, no longer on %s",
            row["version"],
            row["before"],
            extra={"action": "version.promoted"},
        )
