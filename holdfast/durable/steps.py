"""Steps of your own: the decorator ``step``, which ``holdfast.durable.registry`` passes on."""

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
"""By their durable names."""

_timed: dict[str, Callable[..., Any]] = {}

processes = StepProcesses(lambda: sorted({function.__module__ for function in _timed.values()}))
"""Those that steps with a timeout run in."""


def step(
    name: str,
    *,
    attempts: int = 1,
    wait_seconds: float = 1.0,
    errors: Sequence[type[Exception]] = (),
    timeout_seconds: float | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Makes a function a step: its result is recorded once, and a replay reads it instead of running it.

    Its result has the type that it is annotated with, first run or replay. A step that raises is tried
    `attempts` times in all, after `wait_seconds`, twice that, and so on; what it raised last is its result.
    Of an error, name and text are stored: name in `errors` the classes that the workflow catches, made from
    the text alone, and they are raised as such by a replay too; a subclass as the one that is named. Those
    are answers: not tried again.

    With `timeout_seconds` each attempt runs in a process of its own, which is killed after that time: the
    attempt raises `StepTimeout`. The function must be one of a module, since that process finds it there; its
    arguments, result and errors must be picklable.
    """
    kinds = {kind.__name__: kind for kind in errors}
    for kind in errors:
        _made_from_text(kind, name)
    if timeout_seconds is not None:
        if not 0 < timeout_seconds < math.inf:
            raise ModuleWrong(f"Step {name}: timeout_seconds must be positive and finite.")
        # What a replay raises as itself, too; tried again like any other error.
        kinds |= {kind.__name__: kind for kind in (StepTimeout, StepProcessDied)}

    def named(error: Exception) -> type[Exception] | None:
        # As DBOS loads it from JSON it is an error that carries the name of its class.
        stored = kinds.get(str(getattr(error, "name", "")))
        return next((kind for kind in type(error).__mro__ if kind in kinds.values()), stored)

    # Whether what this thread's attempt raised is the step's result.
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
            # DBOS would put an error of its own in the place of the last attempt's.
            status = DBOS.step_status
            attempt.final = status is None or (status.current_attempt or 0) + 1 >= attempts
            with timed_step(name):
                try:
                    return signature.result(run(*args, **kwargs))
                except Exception as error:
                    # Also of one that came out of its process as its text.
                    classes = getattr(error, "classes", ())
                    kind = next((each for each in map(kinds.get, classes) if each in errors), None)
                    if isinstance(error, tuple(errors)):
                        kind = named(error)
                    if kind is None:
                        raise
                    attempt.final = True
                    # Under a name that a replay knows.
                    raise kind(str(error)) from error

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if DBOS.workflow_id is None:
                return function(*args, **kwargs)
            try:
                found = recorded(*args, **kwargs)
                # A step inside a step is a part of that one: nobody has unpacked it.
                found = found.value if isinstance(found, Stored) else found
                return found.value if isinstance(found, Revived) else signature.revive(found)  # type: ignore[no-any-return]
            except Exception as error:
                if (kind := named(error)) is None:
                    raise
                # In the first run too: what a replay raises is made from the stored text.
                raise kind(str(error)) from error

        return call

    return decorate


def _run_apart(
    name: str, module: str, timeout_seconds: float, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Runs the step in a process of its own, which ends with the workflow's cancellation, too."""
    workflow_id = str(DBOS.workflow_id)
    call = (module, name, workflow_id, DBOS.step_id, args, kwargs)
    with _cancellation(workflow_id) as cancellation:
        try:
            return processes.run(_run_here, call, timeout_seconds=timeout_seconds, cancellation=cancellation)
        except CpuCancelled as cancelled:
            # Recorded nowhere: resumed, the workflow runs the step again.
            raise dbos_error.DBOSWorkflowCancelledError(
                f"Workflow {workflow_id} is cancelled."
            ) from cancelled


def _run_here(  # noqa: PLR0917 - it travels by position
    module: str, name: str, workflow_id: str, step_id: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """In that process: the function itself, which is told which step of which workflow it is."""
    importlib.import_module(module)
    become_step(workflow_id, step_id)
    return _timed[name](*args, **kwargs)


@contextmanager
def _cancellation(workflow_id: str) -> Iterator[Cancellation | None]:
    try:
        means = resources()
    except RuntimeError:  # a process that nobody tells of cancellations: DBOS without Holdfast's
        yield None
        return
    with means.waker.cancellations.of(workflow_id) as cancellation:
        # What was said before anyone listened.
        execution = {"workflow_ids": [workflow_id], "owner_xids": [cancellation.owner_xid]}
        if means.ops.run_patiently("lost_executions", **execution):
            cancellation.set()
        yield cancellation


def idempotency_key() -> str:
    """Names what the running step does to the outside: the same at every attempt, and after a takeover.

    Hand it to whom the step calls, who does the same thing only once by it.
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
