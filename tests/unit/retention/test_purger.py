"""The batches of a page: when a stop ends it, and what counts as deleted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from holdfast.retention import purger as purger_module
from holdfast.retention.purger import BATCH, Done, Purger


class _RefusedError(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__("refused")
        self.sqlstate = sqlstate


class _Page:
    """A page of three families, each of which fills a batch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, refused: dict[str, str], stop_after: int) -> None:
        self.refused = refused
        self.deleted: list[str] = []
        purger = Purger(
            SimpleNamespace(),  # type: ignore[arg-type]
            SimpleNamespace(run=self.run),  # type: ignore[arg-type]
            purpose="test",
            stopping=lambda: len(self.deleted) >= stop_after,
        )
        monkeypatch.setattr(purger_module.time, "sleep", lambda _: None)
        client: Any = SimpleNamespace(delete_workflows=self.delete)
        self.done = Done(workflows={}, rows=0, after=[-1, ""], more=True, stopped=False)
        purger._page(purger_module._Purge(client), {"cutoff_ms": 9, "parked_cutoff_ms": None}, self.done)

    def run(self, statement: str, **params: Any) -> list[dict[str, Any]]:
        if statement == "purge_page":
            row = {"first": True, "old": True, "has_children": True}
            return [row | {"ended_ms": n, "workflow_id": f"w{n}"} for n in range(3)]
        root = params["workflow_id"]
        ids = [root, *(f"{root}-{n}" for n in range(BATCH - 1))]
        return [{"workflow_id": each, "name": "n", "status": "SUCCESS"} for each in ids]

    def delete(self, ids: list[str]) -> None:
        if state := self.refused.get(ids[0]):
            raise sa.exc.IntegrityError("DELETE", None, _RefusedError(state))
        self.deleted.append(ids[0])


def test_a_stop_ends_a_page_after_the_batch_that_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    page = _Page(monkeypatch, refused={}, stop_after=1)
    assert page.deleted == ["w0"]
    assert (page.done["rows"], page.done["after"], page.done["more"]) == (BATCH, [0, "w0"], True)


def test_any_other_refusal_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(sa.exc.IntegrityError):
        _Page(monkeypatch, refused={"w1": "23505"}, stop_after=9)
