"""Decides which stored workflows this process can run. It claims no others.

DBOS claims whatever waits in a queue, and only then looks for the workflow's function. In a rolling upgrade
old and new code serve one queue: a workflow that only the new code has would stay PENDING in an old process,
and one whose arguments its code does not take would end as ERROR. Here the claim itself leaves both to the
processes that can run them. `registrations` publishes the same facts, so that other processes see what no
live process can run (``ops.stranded_work``).

Private to DBOS 3.4.0 and used here, held by test_claimable.py: the registry, and ``_claim_gate`` and
``tables`` of a system database. `claims` adds the condition where DBOS does not ask its gate.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from dbos._dbos import _get_or_create_dbos_registry
from sqlalchemy.dialects import postgresql

from holdfast.dbos_adapter.registrations import arguments_of


@dataclass(frozen=True)
class Runnable:
    """The workflows, classes and instances that are registered in this process."""

    names: list[str]
    classes: list[str]
    """As ``class``, and as ``class/instance`` for a configured instance. That of a function is ``""``."""
    takes: str
    """The arguments that each workflow takes, as JSON: see `registrations.arguments_of`."""


class Claimable:
    """The condition of this process's claims. It follows workflows that are registered after the launch.

    Unless `by_arguments`, workflows with arguments that this code does not take are claimed too, and end as
    ERROR. In an attached application that is DBOS's way, and another signature usually makes another version.
    """

    def __init__(self, *, by_arguments: bool = False) -> None:
        self._by_arguments = by_arguments
        self.on_change: Callable[[], object] = lambda: None
        """Called in the claiming thread when workflows were registered since the last claim."""
        self._size: tuple[int, ...] = ()
        self._runnable = Runnable([], [], "{}")

    def runnable(self) -> Runnable:
        """Returns what this process can run now."""
        registry = _get_or_create_dbos_registry()
        maps = registry.workflow_info_map, registry.class_info_map, registry.instance_info_map
        size = tuple(len(each) for each in maps)
        if size != self._size:
            is_first = not self._size
            names = sorted(registry.workflow_info_map)
            taken = {
                name: takes
                for name in (names if self._by_arguments else ())
                if (takes := arguments_of(name)) is not None
            }
            classes = ["", *registry.class_info_map, *registry.instance_info_map]
            # In this order: the thread of another queue takes what is there for a size that it knows.
            self._runnable = Runnable(names, classes, json.dumps(taken))
            self._size = size
            if not is_first:
                self.on_change()
        return self._runnable

    def parameters(self) -> dict[str, Any]:
        """Returns the parameters of the named statement ``claim_queued``."""
        found = self.runnable()
        return {"names": found.names, "classes": found.classes, "takes": found.takes}

    def conditions(self, db: Any) -> list[sa.ColumnElement[bool]]:
        """Returns the same condition for the claims that DBOS makes."""
        found = self.runnable()
        ws = db.tables.workflow_status
        known = [
            ws.c.name == sa.any_(sa.cast(found.names, postgresql.ARRAY(sa.Text))),
            sa.func.coalesce(ws.c.class_name + sa.func.coalesce("/" + ws.c.config_name, ""), "")
            == sa.any_(sa.cast(found.classes, postgresql.ARRAY(sa.Text))),
        ]
        if not self._by_arguments:
            return known
        inputs = db.tables.workflow_input
        separate = sa.select(inputs.c.inputs).where(inputs.c.workflow_uuid == ws.c.workflow_uuid)
        stored = sa.func.coalesce(separate.scalar_subquery(), ws.c.inputs)
        takes = sa.cast(sa.literal(found.takes, sa.Text), postgresql.JSONB)[ws.c.name]
        return [*known, sa.func.ops.arguments_fit(stored, takes)]


def attach(db: Any, claimable: Claimable) -> None:
    """Limits the claims of a launched application's system database.

    A DBOS before 3.4 has no such condition: an attached application then claims as DBOS does.
    """
    db.claimable = claimable
    if (gate := getattr(db, "_claim_gate", None)) is None:
        return
    db._claim_gate = lambda *args: [*gate(*args), *claimable.conditions(db)]
