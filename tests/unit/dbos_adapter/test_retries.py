"""What a coroutine of DBOS waits out, and what it passes on."""

from __future__ import annotations

import asyncio

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
