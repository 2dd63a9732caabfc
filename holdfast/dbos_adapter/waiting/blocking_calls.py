"""Publishes DBOS's blocking calls in a workflow as waits, which a cancel or a release ends.

`holdfast.dbos_adapter.waiting.awaited` has the calls that wait for the end of other workflows.

Private to DBOS 3.4.0 and replaced here, for a system database that has an attribute ``waits``: methods of
``PostgresSystemDatabase``, ``_get_result`` of two handles, ``invoke_step`` and ``EnterDBOSWorkflow``, and
``time`` and ``asyncio`` as ``dbos._dbos`` sees them. tests/integration/dbos_adapter/test_waits.py tests them.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

import dbos._core
import dbos._dbos
from dbos._context import get_local_dbos_context
from dbos._core import WorkflowHandleAsyncTask, WorkflowHandleFuture
from dbos._sys_db_postgres import PostgresSystemDatabase

from holdfast.dbos_adapter.waiting import awaited
from holdfast.dbos_adapter.waiting.awaited import original
from holdfast.dbos_adapter.waiting.wait import LAUNCHED, Kind, Wait, wait_in, waits_of
from holdfast.dbos_adapter.waiting.waits import Waits


def install() -> None:
    """Replaces the blocking calls for every application of this process. Idempotent."""
    kind: Any = PostgresSystemDatabase
    if hasattr(kind, "blocking_originals"):
        return
    replacements = (
        awaited.await_workflow_result,
        awaited.await_workflow_result_async,
        awaited.await_first_workflow_id,
        awaited.await_first_workflow_id_async,
        recv_setup,
        get_event_setup,
        register_stream_listener,
        unregister_stream_listener,
        awaited.record_get_result,
    )
    kind.blocking_originals = {method.__name__: getattr(kind, method.__name__) for method in replacements}
    for method in replacements:
        setattr(kind, method.__name__, method)
    WorkflowHandleFuture._get_result = awaited.until_future(WorkflowHandleFuture._get_result)  # type: ignore[method-assign]
    WorkflowHandleAsyncTask._get_result = awaited.until_task(WorkflowHandleAsyncTask._get_result)  # type: ignore[method-assign]
    dbos._core.invoke_step = _counting_step(dbos._core.invoke_step)
    awaited.publish_waits_for_direct_children()
    dbos._dbos.time = _Time()  # type: ignore[attr-defined, assignment]
    dbos._dbos.asyncio = _Asyncio()  # type: ignore[attr-defined, assignment]


# --- messages, events, streams ----------------------------------------------------------------------


def _publish_during_wait(wait: Wait | None) -> None:
    """Makes the wait for one of DBOS's events a wait of the workflow."""
    if wait is None:
        return
    event: Any = wait.event

    def here(timeout: float | None = None) -> bool:
        if not event.is_set():
            try:
                wait.begin()
                wait.block(timeout)
            finally:
                wait.end()
        return bool(event.is_set())

    async def here_async(timeout: float) -> bool:  # noqa: ASYNC109 - as DBOS calls it
        if not event.is_set():
            try:
                wait.begin()
                await wait.block_async(timeout)
            finally:
                await wait.end_async()
        return bool(event.is_set())

    event.wait, event.wait_async = here, here_async


def recv_setup(  # noqa: PLR0917 - as DBOS calls it
    db: Any,
    workflow_uuid: str,
    function_id: int,
    timeout_function_id: int,
    topic: str | None,
    timeout_seconds: float = 60,
) -> Any:
    """As DBOS's method. The wait for the message is published."""
    found = original(db, "recv_setup")(
        workflow_uuid, function_id, timeout_function_id, topic, timeout_seconds
    )
    _publish_event_wait(db, found, "message", topic)
    return found


def get_event_setup(
    db: Any, target_uuid: str, key: str, timeout_seconds: float = 60, caller_ctx: Any = None
) -> Any:
    """As DBOS's method. The wait for the event is published."""
    found = original(db, "get_event_setup")(target_uuid, key, timeout_seconds, caller_ctx)
    _publish_event_wait(db, found, "event", f"{target_uuid}/{key}", is_step=caller_ctx is None)
    return found


def _publish_event_wait(
    db: Any, found: Any, kind: Kind, subject: str | None, *, is_step: bool = False
) -> None:
    waits, ctx = waits_of(db), get_local_dbos_context()
    if waits is None or found[0] or ctx is None or not ctx.workflow_id:
        return
    # DBOS gives these calls a context like that of a step.
    owner_xid = None if is_step else ctx.owner_xid
    _publish_during_wait(
        waits.wait(ctx.workflow_id, owner_xid, kind, subject, seconds=found[2], event=found[1])
    )


def register_stream_listener(db: Any, workflow_uuid: str, key: str) -> Any:
    """As DBOS's method. The end of the workflow that writes the stream also wakes the reader."""
    event, payload = original(db, "register_stream_listener")(workflow_uuid, key)
    if (waits := waits_of(db)) is not None:
        _publish_during_wait(wait_in(waits, "stream", f"{workflow_uuid}/{key}", event=event))
        event.end_callback = db.endings.on_end([workflow_uuid], event.set)
        event.end_callback.__enter__()
    return event, payload


def unregister_stream_listener(db: Any, payload: str, event: Any) -> None:
    """As DBOS's method. The end of the writing workflow no longer wakes the reader."""
    if (end_callback := vars(event).get("end_callback")) is not None:
        end_callback.__exit__(None, None, None)
    original(db, "unregister_stream_listener")(payload, event)


# --- sleeps -----------------------------------------------------------------------------------------


class _Time:
    """The ``time`` module as ``dbos._dbos`` sees it: a workflow's sleep is a wait."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    @staticmethod
    def sleep(seconds: float) -> None:
        """Sleeps as ``time.sleep`` does. A workflow's sleep is published."""
        wait = LAUNCHED.waits and wait_in(LAUNCHED.waits, "sleep", seconds=seconds)
        if not wait:
            time.sleep(seconds)
            return
        ends = time.monotonic() + seconds
        try:
            wait.begin()
            while (left := ends - time.monotonic()) > 0:
                wait.block(left)
        finally:
            wait.end()


class _Asyncio:
    """The ``asyncio`` module as ``dbos._dbos`` sees it: a workflow's sleep is a wait."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @staticmethod
    async def sleep(seconds: float) -> None:
        """Sleeps as ``asyncio.sleep`` does. A workflow's sleep is published."""
        wait = LAUNCHED.waits and wait_in(LAUNCHED.waits, "sleep", seconds=seconds)
        if not wait:
            await asyncio.sleep(seconds)
            return
        ends = time.monotonic() + seconds
        try:
            wait.begin()
            while (left := ends - time.monotonic()) > 0:
                await wait.block_async(left)
        finally:
            await wait.end_async()


# --- steps ------------------------------------------------------------------------------------------


def _counting_step(theirs: Callable[..., Any]) -> Callable[..., Any]:
    """Counts a workflow as running while a step's body runs, even if another of its calls waits."""

    def invoke_step(instance: Any, step_ctx: Any, func: Any, args: Any, kwargs: Any, **options: Any) -> Any:
        waits = waits_of(instance._sys_db)
        if waits is not None:
            func = _running(waits, (step_ctx.workflow_id, step_ctx.owner_xid), func)
        return theirs(instance, step_ctx, func, args, kwargs, **options)

    return invoke_step


def _running(waits: Waits, key: tuple[str, str], func: Any) -> Any:
    if inspect.iscoroutinefunction(func):

        async def body_async(*args: Any, **kwargs: Any) -> Any:
            run = waits.step_begins(key)
            try:
                if run is not None:
                    await waits.withdraw_async(run)
                return await func(*args, **kwargs)
            finally:
                waits.step_ends(key)

        return body_async

    def body(*args: Any, **kwargs: Any) -> Any:
        run = waits.step_begins(key)
        try:
            if run is not None:
                waits.withdraw(run)
            return func(*args, **kwargs)
        finally:
            waits.step_ends(key)

    return body
