"""Which definition of a queue or schedule applies while processes of different code run side by side.

`ops.definitions` records when each definition was first declared. The one that was declared last applies, as
long as a live process declares it: an old process that starts again changes nothing that newer live code
declares. After a rollback the old definition applies again once no live process declares the newer one.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import psycopg2

from holdfast.postgres.database import OpsPool, Row, query, transaction
from holdfast.postgres.outage import REACH, is_outage, lacks_connections

log = logging.getLogger("holdfast.definitions")

_T = TypeVar("_T")
Definitions = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""By kind (``queue`` or ``schedule``) and name."""


class DefinitionLedger:
    """What this process declares, and what of it applies. `apply` writes DBOS's row of a kind and name."""

    def __init__(
        self,
        ops: OpsPool,
        executor_id: str,
        application: str,
        own: Definitions,
        apply: Callable[[str, str], None],
    ) -> None:
        self._ops = ops
        self._executor_id = executor_id
        self._own = json.dumps(own)
        self._application = application
        self._apply = apply

    def declare(self) -> None:
        """Stores what this process declares, before it applies any of it. Waits until PostgreSQL is back."""
        _patiently(
            lambda: self._ops.run("declare_definitions", executor_id=self._executor_id, **self._params)
        )

    def start(self, kind: str) -> None:
        """Applies each own definition of the kind, unless newer live code declares another. Waits as above.

        It also writes those that apply already: an older release, or somebody else, may have changed the row.
        """
        _patiently(lambda: self._write_again(kind))
        while not _patiently(lambda: self._settle([kind])):
            time.sleep(random.uniform(0.02, 0.1))  # noqa: S311

    def settle(self) -> None:
        """Applies own definitions that newer live code had kept from it, and that does not live any more.

        Any process does so every few seconds. Raises ``psycopg2.Error``, and what `apply` raises.
        """
        self._settle(["queue", "schedule"])

    @property
    def _params(self) -> dict[str, Any]:
        return {"application": self._application, "definitions": self._own}

    def _write_again(self, kind: str) -> None:
        # Many may do so at the same time, but none beside a process that changes which definition applies.
        with self._ops.connection() as connection, transaction(connection):
            query(connection, "share_definitions_lock", application=self._application)
            for row in query(connection, "newest_definitions", **self._params):
                if row["kind"] == kind and row["applies"]:
                    self._apply(kind, row["name"])

    def _settle(self, kinds: list[str]) -> bool:
        """Returns whether nothing is left to do: another process may do the same at the moment."""

        def left(rows: list[Row]) -> list[Row]:
            return [row for row in rows if row["kind"] in kinds and not row["applies"]]

        if not left(self._ops.run("newest_definitions", **self._params)):
            return True
        # One process at a time, otherwise the mark and DBOS's row may be of different ones.
        with self._ops.connection() as connection, transaction(connection):
            if not query(connection, "try_definitions_lock", application=self._application)[0]["held"]:
                return False
            rows = left(query(connection, "newest_definitions", **self._params))
            for row in rows:
                self._apply(row["kind"], row["name"])
                query(connection, "mark_definition", application=self._application, **row)
        applied = ", ".join(f"{row['kind']} {row['name']}" for row in rows)
        log.info("definitions applied: %s", applied, extra={"action": "definitions.applied"})
        return True


def _patiently(call: Callable[[], _T]) -> _T:
    """Returns what `call` returns, once PostgreSQL answers. A lack of connections is raised, as elsewhere."""
    is_first = True
    while True:
        try:
            return call()
        except psycopg2.Error as error:
            if not is_outage(error) or lacks_connections(error):
                raise
            if is_first:
                log.warning(
                    "definitions wait: %s", str(error).strip(), extra={"action": "definitions.waiting"}
                )
            is_first = False
        REACH.wait_for_return(random.uniform(0.3, 0.7))  # noqa: S311
