"""The outcome of a workflow whose task is cancelled, and of an exit while the process stops."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from dbos import PortableWorkflowError

from holdfast.dbos_adapter import outcomes
from holdfast.dbos_adapter.serializer import json_serializer


def test_a_cancelled_workflow_is_recorded_though_it_is_cancelled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As anyio's cancel scopes do, while the threads are busy."""
    recorded: list[Any] = []
    context = SimpleNamespace(workflow_id="w", serialization_type=None)
    monkeypatch.setattr(outcomes, "get_local_dbos_context", lambda: context)
    database = SimpleNamespace(update_workflow_outcome=lambda *args, **_: recorded.append(args))
    instance = SimpleNamespace(_serializer=json_serializer(), _sys_db=database)

    async def forever() -> None:
        await asyncio.sleep(60)

    forever.dbos_function_name = "forever"  # type: ignore[attr-defined]

    async def cancelled_thrice() -> None:
        free = threading.Event()
        with ThreadPoolExecutor(1) as threads:
            asyncio.get_running_loop().set_default_executor(threads)
            threads.submit(free.wait)
            task = asyncio.create_task(outcomes._workflow_body(instance, partial(forever))())
            try:
                for _ in range(3):
                    await asyncio.sleep(0.05)
                    task.cancel()
                await asyncio.sleep(0.05)
                assert not task.done()
            finally:
                free.set()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancelled_thrice())
    assert recorded == [("w", "ERROR")]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
@pytest.mark.parametrize(
    ("stopping", "in_main_thread", "kept"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_an_exit_is_no_outcome_only_where_a_stop_raised_it(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, stopping: bool, in_main_thread: bool, kept: bool
) -> None:
    """In the main thread, by a signal handler. Any other exit is the workflow's own, also during a stop."""
    monkeypatch.setattr(outcomes.STOPPING, "is_requested", stopping)
    with pytest.raises(type(error) if kept else PortableWorkflowError):
        if in_main_thread:
            outcomes.raise_outcome(error)
        with ThreadPoolExecutor(1) as threads:
            threads.submit(outcomes.raise_outcome, error).result()
