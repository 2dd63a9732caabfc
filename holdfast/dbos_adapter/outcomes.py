"""Records every end of a step or of a workflow's body as an outcome, once.

DBOS 3.4.0 records only an ``Exception``. If a body raises anything else (``SystemExit``,
``KeyboardInterrupt``, a framework's own ``BaseException``), the workflow stays as if it still ran: it would
be released and run again forever. Here such an end becomes an error with the class's name and the text. A
replay raises the same error, and no retry repeats it. A step's result that cannot be stored ends the step the
same way, after one run of its body.

These cases do not change:

- DBOS's own control flow (a cancelled workflow, one that another execution owns): ``DBOSBaseException``.
- ``asyncio.CancelledError`` where the event loop ends: the workflow continues elsewhere.
- ``asyncio.CancelledError`` in a task that was asked to end (``asyncio.timeout``, a task group): a step
  leaves no record, as in DBOS; a workflow's body is recorded as ERROR, and its task ends as requested.

An exit in a task that user code created escapes from the event loop, by asyncio's rule. The loop that all
async workflows share survives it (`SturdyLoop`).

Private to DBOS 3.4.0 and replaced here, each held by a contract test: ``dbos._core.invoke_step``,
``dbos._core._dropping_datasource_checkpoints``, ``asyncio`` as ``dbos._event_loop`` sees it, and its
``BackgroundEventLoop._shutdown``.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

import dbos._core
import dbos._event_loop
from dbos import PortableWorkflowError
from dbos import error as dbos_error
from dbos._context import get_local_dbos_context
from dbos._event_loop import BackgroundEventLoop
from dbos._registrations import get_dbos_func_name
from dbos._serialization import serialization_for_type

from holdfast.dbos_adapter import ends
from holdfast.dbos_adapter.serializer import Stored, error_text, is_ours, stored
from holdfast.errors import UnstorableValue
from holdfast.observability import tracing

log = logging.getLogger("holdfast.outcomes")

_SCALARS = (str, int, float, bool, type(None))
_SHORT = 10_000


def install() -> None:
    """Replaces these functions for every application of this process. Idempotent."""
    core: Any = dbos._core
    if isinstance(dbos._event_loop.asyncio, _Asyncio):  # type: ignore[attr-defined]
        return
    core.invoke_step = _recorded_step(core.invoke_step)
    core._dropping_datasource_checkpoints = _recorded_body(core._dropping_datasource_checkpoints)
    dbos._event_loop.asyncio = _Asyncio()  # type: ignore[attr-defined, assignment]  # the module imports it


class Stopping:
    """Whether a stop of this process is requested. Work that it interrupts here continues elsewhere.

    It is no ``threading.Event``, whose lock a signal handler must not take.
    """

    is_requested = False


STOPPING = Stopping()


def raise_outcome(error: BaseException) -> NoReturn:
    """Raises the outcome to record for `error`, or `error` itself if Holdfast does not record it."""
    if _is_of_stop(error):
        raise error
    if isinstance(error, StopIteration):
        # A generator does the same, for the same reason: futures and coroutines cannot carry it.
        text = f"StopIteration was raised: {error_text(error)}"
        raise RuntimeError(text) from error  # noqa: TRY004
    control = error.subgroup(dbos_error.DBOSBaseException) if isinstance(error, BaseExceptionGroup) else None
    if control is not None:
        raise _first(control) from error
    if not isinstance(error, Exception | dbos_error.DBOSBaseException):
        raise _outcome(error) from error
    raise error


def _outcome(error: BaseException) -> PortableWorkflowError:
    """Returns the error that is recorded for an end that is no ``Exception``. A replay raises it too."""
    made = PortableWorkflowError(error_text(error) or repr(error), type(error).__name__)
    made.final = True  # type: ignore[attr-defined]
    return made


def _final(error: BaseException) -> bool:
    """Returns whether no other attempt may follow: the process has to end, or the effect is done."""
    return isinstance(error, UnstorableValue) or getattr(error, "final", False)


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


# --- steps --------------------------------------------------------------------------------------------


def _recorded_step(original: Callable[..., Any]) -> Callable[..., Any]:
    def invoke_step(
        instance: Any,
        context: Any,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        should_retry: Callable[[BaseException], Any] | None = None,
        **options: Any,
    ) -> Any:
        ours = is_ours(instance._serializer)
        outcome = original(
            instance,
            context,
            _step_body(function, stores=ours),
            args,
            kwargs,
            should_retry=_not_final(should_retry),
            **options,
        )
        return _value_async(outcome) if inspect.iscoroutine(outcome) else _value(outcome)

    return invoke_step


def _step_body(function: Callable[..., Any], *, stores: bool) -> Callable[..., Any]:
    """Wraps the body to convert its result to text. An unstorable result ends the attempt that made it."""
    if inspect.iscoroutinefunction(function):

        async def run_async(*args: Any, **kwargs: Any) -> Any:
            try:
                value = await function(*args, **kwargs)
            except asyncio.CancelledError as error:
                if _asked_to_end():
                    raise
                raise_outcome(error)
            except BaseException as error:
                raise_outcome(error)
            if not stores:
                return value
            # A large value would block the event loop.
            if isinstance(value, _SCALARS) and not (isinstance(value, str) and len(value) > _SHORT):
                return stored(value)
            return await asyncio.to_thread(stored, value)

        return run_async

    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            value = function(*args, **kwargs)
        except BaseException as error:
            raise_outcome(error)
        return stored(value) if stores else value

    return run


def _value(outcome: Any) -> Any:
    return outcome.value if isinstance(outcome, Stored) else outcome


async def _value_async(outcome: Coroutine[Any, Any, Any]) -> Any:
    return _value(await outcome)


def _not_final(should_retry: Callable[[BaseException], Any] | None) -> Callable[[BaseException], Any]:
    if should_retry is None:
        return lambda error: not _final(error)
    if inspect.iscoroutinefunction(should_retry):

        async def decide_async(error: BaseException) -> Any:
            return not _final(error) and await should_retry(error)

        return decide_async
    return lambda error: not _final(error) and should_retry(error)


# --- workflows ----------------------------------------------------------------------------------------


def _recorded_body(original: Callable[..., Any]) -> Callable[..., Any]:
    def dropping_datasource_checkpoints(instance: Any, function: partial[Any]) -> Callable[[], Any]:
        body: Callable[[], Any] = original(instance, _workflow_body(instance, function))
        return body

    return dropping_datasource_checkpoints


def _workflow_body(instance: Any, function: partial[Any]) -> Callable[[], Any]:
    if inspect.iscoroutinefunction(function):

        async def run_async() -> Any:
            begun = time.perf_counter()
            tracing.mark_run()
            try:
                return await function()
            except asyncio.CancelledError as error:
                if not _asked_to_end():
                    raise_outcome(error)
                # The task ends here, and DBOS stores nothing.
                is_stored = not _loop_ends() and await _record(instance, error)
                ends.count(get_dbos_func_name(function.func), "ERROR" if is_stored else ends.LEFT, begun)
                raise
            except BaseException as error:
                raise_outcome(error)

        return run_async

    def run() -> Any:
        tracing.mark_run()
        try:
            return function()
        except BaseException as error:
            raise_outcome(error)

    return run


def _asked_to_end() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _is_of_stop(error: BaseException) -> bool:
    """Whether a signal handler raised it in a workflow that the main thread called, to end the process."""
    is_exit = isinstance(error, KeyboardInterrupt | SystemExit)
    return is_exit and STOPPING.is_requested and threading.current_thread() is threading.main_thread()


def _loop_ends() -> bool:
    loop = asyncio.get_running_loop()
    if STOPPING.is_requested and threading.current_thread() is threading.main_thread():
        return True  # ``asyncio.run`` cancels the main task first
    if isinstance(loop, SturdyLoop):
        return loop.ends
    # ``asyncio.run`` ends by cancelling every task.
    return all(task.cancelling() for task in asyncio.all_tasks(loop))


async def _record(instance: Any, error: asyncio.CancelledError) -> bool:
    """Ends the workflow as ERROR if it still runs here, and returns whether it did. DBOS gets no outcome."""
    context: Any = get_local_dbos_context()
    form = serialization_for_type(context.serialization_type, instance._serializer)
    text = dbos._core._serialize_exception_for_persistence(_outcome(error), form, instance._serializer)
    update = instance._sys_db.update_workflow_outcome
    writing = asyncio.ensure_future(asyncio.to_thread(update, context.workflow_id, "ERROR", error=text))
    while not writing.done():
        # A task may be cancelled repeatedly (anyio does) while this waits for a free thread.
        with suppress(asyncio.CancelledError):
            await asyncio.shield(writing)
    return writing.result() is not False


# --- the loop -----------------------------------------------------------------------------------------


class SturdyLoop(asyncio.SelectorEventLoop):
    """An event loop that survives an exit in one of its tasks."""

    def run_forever(self) -> None:
        """Runs until the loop is stopped."""
        while True:
            try:
                return super().run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                log.warning(
                    "%s in a task of a workflow", type(error).__name__, extra={"action": "workflow.exit"}
                )

    @property
    def ends(self) -> bool:
        """Returns whether the loop was asked to end all its tasks."""
        code = BackgroundEventLoop._shutdown.__code__
        return any(getattr(task.get_coro(), "cr_code", None) is code for task in asyncio.all_tasks(self))


class _Asyncio:
    """``asyncio`` as ``dbos._event_loop`` sees it. Only the event loop that it creates differs."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """Creates the event loop of one application."""
        return SturdyLoop()
