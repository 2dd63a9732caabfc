"""Which executions of this process a cancel ends: exactly those that lost their workflow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.dbos_adapter import cancelling
from holdfast.dbos_adapter.cancelling import Cancellation, Cancellations

ACTIONS = st.tuples(
    st.sampled_from(["claim", "watch", "listen", "end", "cancel", "move", "check", "check all"]),
    st.sampled_from("ab"),
)


class _Database:
    """The owner of each workflow, as the rows have it."""

    def __init__(self) -> None:
        self.owners: dict[str, str] = {}
        self.claims = 0

    def query(self, _: Any, _name: str, *, workflow_ids: list[str], owner_xids: list[str]) -> list[Any]:
        asked = zip(workflow_ids, owner_xids, strict=True)
        return [{"workflow_id": id_, "owner_xid": xid} for id_, xid in asked if self.owners.get(id_) != xid]


@pytest.fixture(scope="module")
def database() -> Iterator[_Database]:
    with pytest.MonkeyPatch.context() as patch:
        made = _Database()
        patch.setattr(cancelling, "query", made.query)
        yield made


@given(st.lists(ACTIONS, min_size=20, max_size=60))
def test_a_check_ends_whoever_lost_its_workflow_by_a_cancel(
    database: _Database, script: list[tuple[str, str]]
) -> None:
    """Whenever the notice comes: before the execution is watched, while it is, or beside another one.

    A workflow that moves without a notice is found by the check of all.
    """
    cancellations = Cancellations()
    cancellations._all_read_at = float("inf")  # no check is of all unless asked to be
    database.owners.clear()
    claimed: dict[str, str] = {}
    watched: list[tuple[Cancellation, Counter[str]]] = []
    moved: set[str | None] = set()
    """The claims that were lost without a notice."""
    for action, workflow_id in script:
        if action == "claim":
            database.claims += 1
            moved.add(database.owners.get(workflow_id))
            claimed[workflow_id] = database.owners[workflow_id] = f"claim {database.claims}"
        elif action == "watch" and workflow_id in claimed:
            watched.append((cancellations.watch(workflow_id, claimed[workflow_id]), Counter()))
        elif action == "listen" and watched:
            watch, ends = watched[-1]
            ends["listens"] += 1
            watch.add(lambda ends=ends: ends.update(["calls"]))
        elif action == "end" and watched:
            cancellations.forget(watched.pop(0)[0])
        elif action == "cancel" and workflow_id in database.owners:
            del database.owners[workflow_id]
            cancellations.cancelled(workflow_id)
        elif action == "move" and workflow_id in database.owners:
            moved.add(database.owners[workflow_id])
            database.owners[workflow_id] = "elsewhere"
        elif action.startswith("check"):
            cancellations.check(None, now=action == "check all")  # type: ignore[arg-type]
            for watch, ends in watched:
                lost = database.owners.get(watch.workflow_id) != watch.owner_xid
                assert lost or not watch.is_set
                if action == "check all" or watch.owner_xid not in moved:
                    assert watch.is_set == lost, script
                assert ends["calls"] == (ends["listens"] if lost and watch.is_set else 0), "each runs once"
    assert {each.workflow_id for each in cancellations.watched()} == {each.workflow_id for each, _ in watched}
