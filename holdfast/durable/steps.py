"""User-defined steps: the decorator ``step``, which ``holdfast.durable.registry`` exports."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial, wraps
from itertools import chain
from typing import Any, ParamSpec, TypeVar

from dbos import DBOS
from dbos import error as dbos_error

from holdfast.compute.step_processes import StepProcesses
from holdfast.dbos_adapter.cancelling import Cancellation
from holdfast.dbos_adapter.serializer import Stored
from holdfast.dbos_adapter.step_context import become_step
from holdfast.durable import names
from holdfast.durable.measure import timed_step
from holdfast.durable.resources import resources
from holdfast.durable.signature import Revived, Signature
from holdfast.errors import CpuCancelled, ModuleWrong, StepProcessDied, StepTimeout

P = ParamSpec("P")
R = TypeVar("R")

declared_steps: dict[str, Signature] = {}
"""Signatures of the declared steps, by durable name."""

_timed: dict[str, Callable[..., Any]] = {}

processes = StepProcesses(lambda: sorted({function.__module__ for function in _timed.values()}))
"""The processes in which steps with a timeout run."""


def step(
    name: str,
    *,
    attempts: int = 1,
    wait_seconds: float = 1.0,
    should_retry: Callable[[BaseException], bool] | None = None,
    errors: Sequence[type[Exception]] = (),
    timeout_seconds: float | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Declares a function as a step: its result is recorded once, and a replay reads it from the database.

    The function may be async. The result has the annotated type, in the first run and in a replay.

    A step that raises gets `attempts` attempts in total, with pauses of `wait_seconds`, twice that, and so
    on. After an error for which `should_retry` returns False there is no other attempt. The last error is the
    step's result. Only the class name and the text of an error are stored. `errors` lists the classes that
    the workflow catches; it must be possible to construct them from the text alone. A replay raises them too,
    and a subclass is raised as the listed class. They are results: the step is not retried after them.

    With `timeout_seconds` each attempt runs in a separate process, which is killed after that time. The
    attempt then raises `StepTimeout`. The process imports the function, so it must belong to a module, not be
    nested in another function and not be async. Its arguments, result and errors must be picklable.
    """
    for kind in errors:
        _made_from_text(kind, name)
    if timeout_seconds is not None and not 0 < timeout_seconds < math.inf:
        raise ModuleWrong(f"Step {name}: timeout_seconds must be positive and finite.")

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        names.fit(name, [*declared_steps, *chain(*names.STEPS.values())])
        signature = Signature(function)
        run: Callable[..., Any] = function
        if timeout_seconds is not None:
            _found_by_name(function, name)
            _timed[name] = function
            run = partial(_run_apart, name, function.__module__, timeout_seconds)
        declared_steps[name] = signature
        declared = _Step(name, max(attempts, 1), errors, signature, has_timeout=timeout_seconds is not None)
        options = {
            "name": name,
            "retries_allowed": attempts > 1,
            "max_attempts": max(attempts, 1),
            "interval_seconds": wait_seconds,
            "should_retry": partial(_may_retry, should_retry),
        }
        if signature.is_async:
            return declared.of_coroutine(function, options)
        return declared.of_function(function, run, options)

    return decorate


class _Attempt:
    """Whether the error of the attempt that runs is the step's result. A step may run in another task."""

    final = False


_attempt: ContextVar[_Attempt] = ContextVar("attempt")


def _may_retry(should_retry: Callable[[BaseException], bool] | None, error: BaseException) -> bool:
    return not _attempt.get().final and (should_retry is None or should_retry(error))


class _Step:
    """A declared step: how its results and errors are stored, and what its caller gets."""

    def __init__(
        self,
        name: str,
        attempts: int,
        errors: Sequence[type[Exception]],
        signature: Signature,
        *,
        has_timeout: bool,
    ) -> None:
        self.name, self.attempts, self.errors, self.signature = name, attempts, tuple(errors), signature
        # A replay raises those of a timeout too. They are retried like any other error.
        of_timeouts = (StepTimeout, StepProcessDied) if has_timeout else ()
        self._kinds = {kind.__name__: kind for kind in (*errors, *of_timeouts)}

    def of_function(
        self, function: Callable[P, R], run: Callable[..., Any], options: dict[str, Any]
    ) -> Callable[P, R]:
        """Returns the step of a plain function. `run` calls the function, here or in another process."""

        @DBOS.step(**options)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            with self._one_attempt():
                return self.signature.result(run(*args, **kwargs))

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if DBOS.workflow_id is None:
                return function(*args, **kwargs)
            with self._as_in_a_replay():
                return self._revived(recorded(*args, **kwargs))  # type: ignore[no-any-return]

        return call

    def of_coroutine(self, function: Callable[P, Any], options: dict[str, Any]) -> Callable[P, Any]:
        """Returns the step of an async function."""

        @DBOS.step(**options)
        async def recorded(*args: Any, **kwargs: Any) -> Any:
            with self._one_attempt():
                result = await function(*args, **kwargs)
                # A large result would block the event loop, which all async workflows share.
                return await asyncio.to_thread(self.signature.result, result)

        @wraps(function)
        async def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            if DBOS.workflow_id is None:
                return await function(*args, **kwargs)
            with self._as_in_a_replay():
                return self._revived(await recorded(*args, **kwargs))

        return call

    @contextmanager
    def _one_attempt(self) -> Iterator[None]:
        # DBOS would replace the last attempt's error with its own.
        state, is_last = _attempt.get(), attempt() >= self.attempts
        with timed_step(self.name):
            try:
                yield
            except Exception as error:
                kind = self._listed(error)
                state.final = is_last or kind is not None
                if kind is None:
                    raise
                # A replay knows this class by name.
                raise kind(str(error)) from error

    @contextmanager
    def _as_in_a_replay(self) -> Iterator[None]:
        """Raises errors as a replay will, which constructs them from the stored text."""
        token = _attempt.set(_Attempt())
        try:
            yield
        except Exception as error:
            if (kind := self._named(error)) is None:
                raise
            raise kind(str(error)) from error
        finally:
            _attempt.reset(token)

    def _revived(self, found: Any) -> Any:
        # A step inside a step is part of the outer one, so its result is still wrapped.
        found = found.value if isinstance(found, Stored) else found
        return found.value if isinstance(found, Revived) else self.signature.revive(found)

    def _listed(self, error: Exception) -> type[Exception] | None:
        """Returns the class among `errors` of this error, or None."""
        if isinstance(error, self.errors):
            return self._named(error)
        # Also set for an error that left the step's process only as text.
        classes = getattr(error, "classes", ())
        return next((kind for kind in map(self._kinds.get, classes) if kind in self.errors), None)

    def _named(self, error: Exception) -> type[Exception] | None:
        # An error that DBOS loaded from JSON carries the name of its class.
        stored = self._kinds.get(str(getattr(error, "name", "")))
        return next((kind for kind in type(error).__mro__ if kind in self._kinds.values()), stored)


def _run_apart(name: str, module: str, timeout_seconds: float, /, *args: Any, **kwargs: Any) -> Any:
    """Runs the step in a separate process, which is also killed when the workflow is cancelled."""
    workflow_id = str(DBOS.workflow_id)
    call = (module, name, workflow_id, DBOS.step_id, args, kwargs)
    with _cancellation(workflow_id) as cancellation:
        try:
            return processes.run(_run_here, call, timeout_seconds=timeout_seconds, cancellation=cancellation)
        except CpuCancelled as cancelled:
            # Nothing is recorded: if the workflow is resumed, it runs the step again.
            raise dbos_error.DBOSWorkflowCancelledError(
                f"Workflow {workflow_id} is cancelled."
            ) from cancelled


def _run_here(  # noqa: PLR0917 - it travels by position
    module: str, name: str, workflow_id: str, step_id: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Calls the function in the step's process, with the identity of its workflow and step set."""
    importlib.import_module(module)
    become_step(workflow_id, step_id)
    return _timed[name](*args, **kwargs)


@contextmanager
def _cancellation(workflow_id: str) -> Iterator[Cancellation | None]:
    try:
        means = resources()
    except RuntimeError:  # DBOS runs without a Holdfast process, which would announce cancellations
        yield None
        return
    with means.waker.cancellations.watch_current(workflow_id) as cancellation:
        # A cancellation before this registration was not announced here, so check once.
        execution = {"workflow_ids": [workflow_id], "owner_xids": [cancellation.owner_xid]}
        if means.ops.run_patiently("lost_executions", **execution):
            cancellation.set()
        yield cancellation


def attempt() -> int:
    """Returns which attempt of the running step this is, from 1. It is 1 outside a step."""
    status = DBOS.step_status
    return 1 if status is None else (status.current_attempt or 0) + 1


def idempotency_key() -> str:
    """Returns a key for the running step's external effect, equal at every attempt and after a takeover.

    Pass it to the service that the step calls, so that the service can deduplicate retries.
    """
    return f"{DBOS.workflow_id}:{DBOS.step_id}"


def _found_by_name(function: Callable[..., Any], step_name: str) -> None:
    if inspect.iscoroutinefunction(function):
        raise ModuleWrong(
            f"Step {step_name}: a step with timeout_seconds is not async: its process is its own."
        )
    if "<locals>" in function.__qualname__ or function.__module__ == "__main__":
        raise ModuleWrong(
            f"Step {step_name}: a step with timeout_seconds is a function of a module in HOLDFAST_MODULES, "
            "where its process finds it."
        )


def _made_from_text(kind: type[Exception], step_name: str) -> None:
    try:
        kind("text")
    except Exception as error:
        raise ModuleWrong(
            f"Step {step_name}: {kind.__name__} cannot be made from its text alone, and of an error nothing "
            f"else is stored ({error})."
        ) from error
