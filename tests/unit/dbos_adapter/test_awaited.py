"""Waits for the end of other workflows: each is over when its call is, however that ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any

import pytest
from dbos import error as dbos_error
from dbos._context import DBOSContext, _set_local_dbos_context
from dbos._outcome import NoResult

from holdfast.dbos_adapter.cancelling import Cancellations
from holdfast.dbos_adapter.waiting import awaited
from holdfast.dbos_adapter.waiting.ending import Endings
from holdfast.dbos_adapter.waiting.waits import Waits

KEY = ("w", "claim")
CANCELLED = dbos_error.DBOSWorkflowCancelledError("as the error of the call")


class _Ended:
    """The workflow that is awaited. It ends as soon as the wait for it has begun."""

    def __init__(self, outcome: Any, future: Any) -> None:
        self.outcome, self.future = outcome, future
        waits: Any = Waits(lambda *_, **__: [{}], Cancellations())
        self.waits, self.begins = waits, waits.begins
        waits.begins = self.begun
        self.over = False
        self.db = SimpleNamespace(waits=self.waits, endings=Endings(), check_first_workflow_id=self.poll)
        self.db.check_workflow_result = lambda workflow_id, **_: self.poll(workflow_id)
        self.handle = SimpleNamespace(
            workflow_id="child", dbos=SimpleNamespace(_sys_db=self.db), future=future, task=future
        )

    def begun(self, *wait: Any) -> Any:
        run = self.begins(*wait)
        if self.outcome is CANCELLED:
            self.waits.cancellations.lost([KEY])
        elif isinstance(self.outcome, Exception):
            self.future.set_exception(self.outcome)
        else:
            self.future.set_result(self.outcome)
        self.over = self.outcome is not CANCELLED
        return run

    def poll(self, _: Any) -> Any:
        return self.future.result() if self.over else NoResult()


async def _theirs(handle: Any, _: float) -> Any:
    return await handle.task


CALLS: dict[str, Callable[[Any], Any]] = {
    "result": lambda one: awaited.await_workflow_result(one.db, "child", 0.01),
    "first": lambda one: awaited.await_first_workflow_id(one.db, ["child"], 0.01),
    "future": lambda one: awaited.until_future(lambda handle, _: handle.future.result())(one.handle, 1.0),
    "result, async": lambda one: awaited.await_workflow_result_async(one.db, "child", 0.01),
    "first, async": lambda one: awaited.await_first_workflow_id_async(one.db, ["child"], 0.01),
    "task": lambda one: awaited.until_task(_theirs)(one.handle, 1.0),
}


@pytest.mark.parametrize("outcome", ["result", ValueError("its error"), CANCELLED], ids=repr)
@pytest.mark.parametrize("call", CALLS)
def test_no_wait_outlives_its_call(call: str, outcome: Any) -> None:
    """Else the workflow, when it goes on after the error, would be published as waiting."""
    ended = _Ended(outcome, Future())

    async def on_a_loop() -> Any:
        if call == "task":
            ended.future = ended.handle.task = asyncio.get_running_loop().create_future()
        return await CALLS[call](ended)

    def body() -> Any:
        context = DBOSContext()
        context.workflow_id, context.owner_xid = KEY
        _set_local_dbos_context(context)
        return (
            asyncio.run(on_a_loop())
            if call in ("task", "result, async", "first, async")
            else CALLS[call](ended)
        )

    if isinstance(outcome, str):
        assert copy_context().run(body) == outcome
    else:
        with pytest.raises(type(outcome)):
            copy_context().run(body)
    assert ended.waits.runs.by_key == {}
    assert not ended.waits.cancellations.watched()


def test_another_applications_system_database_is_asked_as_dbos_does() -> None:
    """It has no waits: a client's, for example."""
    replaced = {
        "await_workflow_result": ("w", 1.0),
        "await_first_workflow_id": (["w"], 1.0),
    }
    db = SimpleNamespace(blocking_originals={})
    for name, arguments in replaced.items():
        db.blocking_originals[name] = lambda *given, **_: given[1:]
        assert getattr(awaited, name)(db, *arguments) == arguments

        async def answer(*given: Any, **_: Any) -> Any:
            return given[1:]

        db.blocking_originals[f"{name}_async"] = answer
        assert asyncio.run(getattr(awaited, f"{name}_async")(db, *arguments)) == arguments
