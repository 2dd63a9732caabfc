"""Waits for the end of other workflows: by completion notices (module ``ending``), and a poll once a minute.

DBOS polls, once a second by default. That remains where no notices are received. Private to DBOS 3.4.0 and
used here: the names that `holdfast.dbos_adapter.waiting.blocking_calls` installs.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dbos import error as dbos_error
from dbos._context import EnterDBOSWorkflow, get_local_dbos_context
from dbos._outcome import NoResult

from holdfast.dbos_adapter.waiting.ending import Endings
from holdfast.dbos_adapter.waiting.runs import Run
from holdfast.dbos_adapter.waiting.wait import LAUNCHED, NoWait, Wait, wait_in, waits_of
from holdfast.dbos_adapter.waiting.waits import Waits

POLL_SECONDS = 60.0
"""Fallback poll interval for a missed completion notice."""

_FOR_EVER = 1e9


def original(db: Any, name: str) -> Callable[..., Any]:
    """Returns DBOS's own method."""
    method: Callable[..., Any] = db.blocking_originals[name].__get__(db)
    return method


def await_workflow_result(
    db: Any, workflow_id: str, polling_interval: float, *, fail_if_missing: bool = False
) -> Any:
    """As DBOS's method, with completion notices: returns the workflow's result or raises its error."""
    if waits_of(db) is None:
        return original(db, "await_workflow_result")(
            workflow_id, polling_interval, fail_if_missing=fail_if_missing
        )
    return _until(
        db,
        [workflow_id],
        polling_interval,
        lambda: db.check_workflow_result(workflow_id, fail_if_missing=fail_if_missing),
    )


async def await_workflow_result_async(
    db: Any, workflow_id: str, polling_interval: float, *, fail_if_missing: bool = False
) -> Any:
    """As DBOS's method, with completion notices."""
    if waits_of(db) is None:
        return await original(db, "await_workflow_result_async")(
            workflow_id, polling_interval, fail_if_missing=fail_if_missing
        )
    return await _until_async(
        db,
        [workflow_id],
        polling_interval,
        lambda: db.check_workflow_result(workflow_id, fail_if_missing=fail_if_missing),
    )


def await_first_workflow_id(db: Any, workflow_ids: list[str], polling_interval: float) -> Any:
    """As DBOS's method, with completion notices."""
    if waits_of(db) is None:
        return original(db, "await_first_workflow_id")(workflow_ids, polling_interval)
    return _until(db, workflow_ids, polling_interval, lambda: db.check_first_workflow_id(workflow_ids))


async def await_first_workflow_id_async(db: Any, workflow_ids: list[str], polling_interval: float) -> Any:
    """As DBOS's method, with completion notices."""
    if waits_of(db) is None:
        return await original(db, "await_first_workflow_id_async")(workflow_ids, polling_interval)
    return await _until_async(
        db, workflow_ids, polling_interval, lambda: db.check_first_workflow_id(workflow_ids)
    )


@contextmanager
def _wake_at_end(db: Any, workflow_ids: Sequence[str]) -> Iterator[tuple[Wait | NoWait, Endings]]:
    """Creates a wait whose event is set whenever one of these workflows ends."""
    waits, endings = db.waits, db.endings
    more = len(workflow_ids) - 1
    subject = f"{workflow_ids[0]} and {more} more" if more else workflow_ids[0]
    wait = wait_in(waits, "workflow", subject) or NoWait()
    with endings.on_end(workflow_ids, wait.event.set):
        yield wait, endings


def _pause(endings: Endings, polling_interval: float) -> float:
    return POLL_SECONDS * random.uniform(0.8, 1.2) if endings.notices_arrive else polling_interval  # noqa: S311


def _check_over(endings: Endings) -> None:
    """Raises an error if the application has ended in this process."""
    if endings.over:
        if threading.current_thread().name.startswith("dbos-executor-"):
            raise SystemExit  # ends the thread, without a log line
        raise dbos_error.DBOSException(
            "DBOS was destroyed in this process. The workflow continues in another one."
        )


def _until(db: Any, workflow_ids: list[str], polling_interval: float, poll: Callable[[], Any]) -> Any:
    with _wake_at_end(db, workflow_ids) as (wait, endings):
        try:
            while True:
                wait.event.clear()
                _check_over(endings)
                found = poll()
                if not isinstance(found, NoResult):
                    return found
                wait.begin()
                wait.block(_pause(endings, polling_interval))
        finally:
            wait.end()


async def _until_async(
    db: Any, workflow_ids: list[str], polling_interval: float, poll: Callable[[], Any]
) -> Any:
    with _wake_at_end(db, workflow_ids) as (wait, endings):
        try:
            while True:
                wait.event.clear()
                _check_over(endings)
                found = await asyncio.to_thread(poll)
                if not isinstance(found, NoResult):
                    return found
                wait.begin()
                await wait.block_async(_pause(endings, polling_interval))
        finally:
            await wait.end_async()


def until_future(theirs: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a handle's own method for the result of a workflow that another thread runs."""

    def result(handle: Any, polling_interval: float) -> Any:
        waits = waits_of(handle.dbos._sys_db)
        wait = waits and wait_in(waits, "workflow", handle.workflow_id)
        if wait and not handle.future.done():
            handle.future.add_done_callback(lambda _: wait.event.set())
            try:
                wait.begin()
                while not handle.future.done():
                    wait.block(None)
            finally:
                wait.end()
        return theirs(handle, polling_interval)

    return result


def until_task(theirs: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps the same method for a workflow that is a task of an event loop."""

    async def result(handle: Any, polling_interval: float) -> Any:
        waits = waits_of(handle.dbos._sys_db)
        wait = waits and wait_in(waits, "workflow", handle.workflow_id)
        if wait and not handle.task.done():
            handle.task.add_done_callback(lambda _: wait.event.set())
            try:
                wait.begin()
                while not handle.task.done():
                    await wait.block_async(_FOR_EVER)
            finally:
                await wait.end_async()
        return await theirs(handle, polling_interval)

    return result


def publish_waits_for_direct_children() -> None:
    """Makes parents publish that they wait for a child that they call like a function, in their own slot."""
    kind: Any = EnterDBOSWorkflow
    enter, leave = kind.__enter__, kind.__exit__

    def entered(self: Any) -> Any:
        parent = get_local_dbos_context()
        ctx = enter(self)
        self.parents_wait, self.waits = None, LAUNCHED.waits
        if self.waits is not None and ctx.owner_xid is None:
            self.waits.direct.begins(ctx)
        # A separate execution has its own token. A copy of its starter's context may surround it.
        if parent is not None and parent.is_workflow() and parent.owner_xid and ctx.owner_xid is None:
            waits = self.waits
            if waits is not None:
                ctx.awaited_by = (parent.workflow_id, parent.owner_xid)
                self.parents_wait = waits.wait(
                    parent.workflow_id, parent.owner_xid, "workflow", ctx.workflow_id
                )
                self.parents_wait.begin()
        return ctx

    def left(self: Any, *error: Any) -> Any:
        ctx, waits = self.use_ctx, self.waits
        key = ctx.workflow_id, ctx.owner_xid
        try:
            # `record_get_result` withdraws the wait. It runs next, never on an event loop. DBOS does not call
            # it after an error that is no `Exception` (a cancelled task).
            run = self.parents_wait and self.parents_wait.forget()
            if run and error[0] is not None and not issubclass(error[0], Exception):
                _withdraw(waits, run)
            ctx.awaited_by = None
            return leave(self, *error)
        finally:
            if waits is not None:
                waits.direct.ends(ctx)
                waits.over(key)

    kind.__enter__, kind.__exit__ = entered, left


def _withdraw(waits: Waits, run: Run) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        waits.withdraw(run, raises=False)
    else:
        waits.withdraw_soon(run)  # a statement would block the loop


def record_get_result(db: Any, result_workflow_id: str, *args: Any, **options: Any) -> None:
    """As DBOS's method. First withdraws the published wait of a parent for its child."""
    ctx = args[3] if len(args) > 3 else options.get("ctx")
    waits = waits_of(db)
    if waits is not None and ctx is not None and ctx.is_workflow():
        waits.goes_on((ctx.workflow_id, ctx.owner_xid))
    original(db, "record_get_result")(result_workflow_id, *args, **options)
