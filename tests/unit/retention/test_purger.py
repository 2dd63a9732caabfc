"""The batches of a page: when a stop ends it, and what counts as deleted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from holdfast.retention import purger as purger_module
from holdfast.retention.purger import BATCH, Done, Purger


class _Page:
    """A page of three families, each of which fills a batch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, stop_after: int) -> None:
        self.deleted: list[str] = []
        purger = Purger(
            SimpleNamespace(),  # type: ignore[arg-type]
            SimpleNamespace(run=self.run),  # type: ignore[arg-type]
            purpose="test",
            stopping=lambda: len(self.deleted) >= stop_after,
        )
        monkeypatch.setattr(purger_module.time, "sleep", lambda _: None)
        monkeypatch.setattr(purger_module, "_delete_all", self.delete_all)
        connection: Any = object()
        self.done = Done(workflows={}, rows=0, after=[-1, ""], more=True, stopped=False)
        purger._page(purger_module._Purge(connection), {"cutoff_ms": 9, "parked_cutoff_ms": None}, self.done)

    def run(self, statement: str, **params: Any) -> list[dict[str, Any]]:
        if statement == "purge_page":
            row = {"first": True, "old": True, "has_children": True}
            return [row | {"ended_ms": n, "workflow_id": f"w{n}"} for n in range(3)]
        root = params["workflow_id"]
        ids = [root, *(f"{root}-{n}" for n in range(BATCH - 1))]
        return [{"workflow_id": each, "name": "n", "status": "SUCCESS"} for each in ids]

    def delete_all(self, _: Any, ids: list[str]) -> tuple[set[str], set[str]]:
        self.deleted.append(ids[0])
        return set(), set()


def test_a_stop_ends_a_page_after_the_batch_that_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    page = _Page(monkeypatch, stop_after=1)
    assert page.deleted == ["w0"]
    assert (page.done["rows"], page.done["after"], page.done["more"]) == (BATCH, [0, "w0"], True)
