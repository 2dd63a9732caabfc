"""Steps of your own: the decorator ``step``, which ``services.workflows.own`` passes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import wraps
from itertools import chain
from typing import Any, ParamSpec, TypeVar

from dbos import DBOS

from services.domain.errors import ModuleWrong
from services.workflows import names
from services.workflows.measure import timed_step
from services.workflows.signature import Signature

P = ParamSpec("P")
R = TypeVar("R")

declared_steps: dict[str, Signature] = {}
"""By their durable names."""


def step(
    name: str,
    *,
    attempts: int = 1,
    wait_seconds: float = 1.0,
    errors: Sequence[type[Exception]] = (),
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Makes a function a step: its result is recorded once, and a replay reads it instead of running it.

    Its result has the type that it is annotated with, first run or replay. A step that raises is tried
    `attempts` times in all, after `wait_seconds`, twice that, and so on; what it raised last is its result.
    Of an error, name and text are stored: name in `errors` the classes that the workflow catches, made from
    the text alone, and they are raised as such by a replay too; a subclass as the one that is named. Those
    are answers: not tried again.
    """
    kinds = {kind.__name__: kind for kind in errors}
    for kind in errors:
        _made_from_text(kind, name)

    def named(error: Exception) -> type[Exception] | None:
        # As DBOS loads it from JSON it is an error that carries the name of its class.
        stored = kinds.get(str(getattr(error, "name", "")))
        return next((kind for kind in type(error).__mro__ if kind in errors), stored)

    # Whether what this thread's attempt raised is the step's result.
    attempt = threading.local()

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        names.fit(name, [*declared_steps, *chain(*names.STEPS.values())])
        signature = declared_steps[name] = Signature(function)

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
                    return signature.plain(function(*args, **kwargs))
                except tuple(errors) as error:
                    attempt.final = True
                    # Under a name that a replay knows.
                    raise named(error)(str(error)) from error  # type: ignore[misc]

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if DBOS.workflow_id is None:
                return function(*args, **kwargs)
            try:
                return signature.revive(recorded(*args, **kwargs))  # type: ignore[no-any-return]
            except Exception as error:
                if (kind := named(error)) is None:
                    raise
                # In the first run too: what a replay raises is made from the stored text.
                raise kind(str(error)) from error

        return call

    return decorate


def idempotency_key() -> str:
    """Names what the running step does to the outside: the same at every attempt, and after a takeover.

    Hand it to whom the step calls, who does the same thing only once by it.
    """
    return f"{DBOS.workflow_id}:{DBOS.step_id}"


def _made_from_text(kind: type[Exception], step_name: str) -> None:
    try:
        kind("text")
    except Exception as error:
        raise ModuleWrong(
            f"Step {step_name}: {kind.__name__} cannot be made from its text alone, and of an error nothing "
            f"else is stored ({error})."
        ) from error
