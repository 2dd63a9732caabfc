"""Which version of the application is the latest: scheduled work is enqueued for that one, whoever fires it.

DBOS takes whichever registered first last, also when nobody runs it any more: after a roll back, or a canary
that was removed, every schedule would fire for nobody.
"""

from __future__ import annotations

import logging

import psycopg2

from holdfast.identity import Identity
from holdfast.postgres.database import OpsPool

log = logging.getLogger("holdfast.versions")


def settle_latest(ops: OpsPool, identity: Identity, *, starting: bool = False) -> None:
    """Gives scheduled work to a version that lives, where nobody runs the latest one.

    ``starting``, once this executor has registered: also where the latest is older than one that lives, since
    it was made the latest while that one was away. With the database away, nothing changes at this call.
    """
    try:
        rows = ops.run("settle_latest_version", application=identity.application, starting=starting)
    except psycopg2.Error as error:
        log.warning(
            "latest version not settled: %s", str(error).strip(), extra={"action": "version.not_settled"}
        )
        return
    for row in rows:
        log.warning(
            "schedules go to version %s, no longer to %s",
            row["version"],
            row["before"],
            extra={"action": "version.promoted"},
        )
