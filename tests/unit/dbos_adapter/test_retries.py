"""What a coroutine of DBOS waits out, and when an attempt without an answer took effect."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from holdfast.dbos_adapter import retries

AWAY = sa.exc.OperationalError("SELECT", None, psycopg.errors.AdminShutdown("away"))


@pytest.mark.parametrize(
    ("error", "waits"),
    [(AWAY, True), (sa.exc.TimeoutError("no free connection"), True), (ValueError("wrong"), False)],
)
def test_an_outage_and_a_full_pool_are_waited_out(
    monkeypatch: pytest.MonkeyPatch, error: Exception, waits: bool
) -> None:
    answers = [error, error, None]
    asked = asyncio.sleep

    async def original() -> str:
        if (answer := answers.pop(0)) is not None:
            raise answer
        return "done"

    monkeypatch.setattr(retries.asyncio, "sleep", lambda _: asked(0))
    call = retries._waiting_coroutine(original)()
    if waits:
        assert asyncio.run(call) == "done"
    else:
        with pytest.raises(ValueError, match="wrong"):
            asyncio.run(call)
        assert len(answers) == 2


@pytest.mark.parametrize(
    ("stored", "done"), [(None, False), ({"schedule_id": "mine"}, True), ({"schedule_id": "other"}, False)]
)
def test_a_schedule_is_created_if_it_is_this_one(stored: Any, done: bool) -> None:
    """And not another one of that name, whose refusal the caller has to see."""
    db = SimpleNamespace(get_schedule=lambda _: stored)
    assert retries._DONE["create_schedule"](db, {"schedule_name": "s", "schedule_id": "mine"}) is done


@pytest.mark.parametrize(("found", "done"), [((), False), (("f1",), False), (("f1", "f2"), True)])
def test_a_fork_of_several_is_done_once_all_are_there(found: tuple[str, ...], done: bool) -> None:
    db = SimpleNamespace(get_workflow_statuses=lambda ids: [each for each in ids if each in found])
    assert retries._DONE["fork_workflow"](db, ["w1", "w2"], ["f1", "f2"]) is done


@pytest.mark.parametrize(
    ("status", "done"), [(None, False), ("SUCCESS", False), ("CANCELLED", False), ("PENDING", True)]
)
def test_a_rewind_is_done_once_the_workflow_is_unfinished(status: str | None, done: bool) -> None:
    db = SimpleNamespace(get_workflow_statuses=lambda _: [{"status": status}] if status else [])
    assert retries._DONE["rewind_workflow"](db, "w") is done
