"""Which definition of a queue or schedule applies while processes of different code run side by side.

`ops.definitions` records when each definition was first declared. The one that was declared last applies, as
long as a live process declares it: an old process that starts again changes nothing that newer live code
declares. After a rollback the old definition applies again once no live process declares the newer one. A
value that somebody changes in the database stays until another definition applies.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from holdfast.postgres.database import OpsPool, query, transaction

log = logging.getLogger("holdfast.definitions")

Definitions = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""By kind (``queue`` or ``schedule``) and name."""


def apply_newest(
    ops: OpsPool,
    application: str,
    own: Definitions,
    apply: Callable[[str, str], None],
    *,
    starting: bool = False,
) -> None:
    """Calls ``apply(kind, name)`` for each own definition that is the newest of live code and does not apply.

    A process calls it when it starts, and then every few seconds. When it starts, it also restores what is
    missing in DBOS's tables. Raises ``psycopg2.Error``, and what `apply` raises.
    """
    params = {"application": application, "definitions": json.dumps(own), "starting": starting}
    if starting:
        ops.run_patiently("note_definitions", application=application, definitions=params["definitions"])
    if not ops.run("definitions_to_apply", **params):
        return
    # One process at a time, otherwise the mark and DBOS's row may be of different ones.
    with ops.connection() as connection, transaction(connection):
        query(connection, "lock_definitions", application=application)
        rows = query(connection, "definitions_to_apply", **params)
        for row in rows:
            apply(row["kind"], row["name"])
            query(connection, "mark_definition", application=application, **row)
    if applied := ", ".join(f"{row['kind']} {row['name']}" for row in rows):
        log.info("definitions applied: %s", applied, extra={"action": "definitions.applied"})
