"""User-defined steps: the decorator ``step``, which ``holdfast.durable.registry`` exports."""

from __future__ import annotations

import importlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
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
    errors: Sequence[type[Exception]] = (),
    timeout_seconds: float | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Declares a function as a step: its result is recorded once, and a replay reads it from the database.

    The result has the annotated type, in the first run and in a replay. A step that raises gets `attempts`
    attempts in total, with pauses of `wait_seconds`, twice that, and so on. Its last error is its result.
    Only the class name and the text of an error are stored. `errors` lists the classes that the workflow
    catches; it must be possible to construct them from the text alone. A replay raises them too, and a
    subclass is raised as the listed class. They are results: the step is not retried after them.

    With `timeout_seconds` each attempt runs in a separate process, which is killed after that time. The
    attempt then raises `StepTimeout`. The process imports the function, so it must belong to a module and not
    be nested in another function. Its arguments, result and errors must be picklable.
    """
    kinds = {kind.__name__: kind for kind in errors}
    for kind in errors:
        _made_from_text(kind, name)
    if timeout_seconds is not None:
        if not 0 < timeout_seconds < math.inf:
            raise ModuleWrong(f"Step {name}: timeout_seconds must be positive and finite.")
        # A replay raises these classes too. They are retried like any other error.
        kinds |= {kind.__name__: kind for kind in (StepTimeout, StepProcessDied)}

    def named(error: Exception) -> type[Exception] | None:
        # An error that DBOS loaded from JSON carries the name of its class.
        stored = kinds.get(str(getattr(error, "name", "")))
        return next((kind for kind in type(error).__mro__ if kind in kinds.values()), stored)

    # Whether the error of this thread's attempt is the step's result.
    attempt = threading.local()

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        names.fit(name, [*declared_steps, *chain(*names.STEPS.values())])
        signature = declared_steps[name] = Signature(function)
        if timeout_seconds is not None:
            _found_by_name(function, name)
            _timed[name] = function

        def run(*args: P.args, **kwargs: P.kwargs) -> Any:
            if timeout_seconds is None:
                return function(*args, **kwargs)
            return _run_apart(name, function.__module__, timeout_seconds, args, kwargs)

        @DBOS.step(
            name=name,
            retries_allowed=attempts > 1,
            max_attempts=max(attempts, 1),
            interval_seconds=wait_seconds,
            should_retry=lambda _: not attempt.final,
        )
        def recorded(*args: P.args, **kwargs: P.kwargs) -> Any:
            # DBOS would replace the last attempt's error with its own.
            status = DBOS.step_status
            attempt.final = status is None or (status.current_attempt or 0) + 1 >= attempts
            with timed_step(name):
                try:
                    return signature.result(run(*args, **kwargs))
                except Exception as error:
                    # Also set for an error that left the step's process only as text.
                    classes = getattr(error, "classes", ())
                    kind = next((each for each in map(kinds.get, classes) if each in errors), None)
                    if isinstance(error, tuple(errors)):
                        kind = named(error)
                    if kind is None:
                        raise
                    attempt.final = True
                    # A replay knows this class by name.
                    raise kind(str(error)) from error

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if DBOS.workflow_id is None:
                return function(*args, **kwargs)
            try:
                found = recorded(*args, **kwargs)
                # A step inside a step is part of the outer one, so its result is still wrapped.
                found = found.value if isinstance(found, Stored) else found
                return found.value if isinstance(found, Revived) else signature.revive(found)  # type: ignore[no-any-return]
            except Exception as error:
                if (kind := named(error)) is None:
                    raise
                # The first run raises the same error as a replay, which constructs it from the stored text.
                raise kind(str(error)) from error

        return call

    return decorate


def _run_apart(
    name: str, module: str, timeout_seconds: float, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
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


def idempotency_key() -> str:
    """Returns a key for the running step's external effect, equal at every attempt and after a takeover.

    Pass it to the service that the step calls, so that the service can deduplicate retries.
    """
    return f"{DBOS.workflow_id}:{DBOS.step_id}"


def _found_by_name(function: Callable[..., Any], step_name: str) -> None:
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
