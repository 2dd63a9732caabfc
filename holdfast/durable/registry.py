"""Workflows of your own: a module says what it has in one call, and every process knows it then.

``HOLDFAST_MODULES`` names the modules. All processes import them, the workers run what they register. How
to write one: docs/start/your-own-workflow.md. Functions stay plain: called outside a workflow, a step or a
workflow is the function that it was, so a unit test needs no stack.

Durable are the names given here (workflows, steps, queues, schedules), the order of a workflow's steps,
and the names and types of its parameters: docs/operate/upgrading.md.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, Literal, ParamSpec, TypeVar, get_args

from dbos import DBOS, WorkflowHandle

from holdfast.dbos_adapter import cron, values
from holdfast.dbos_adapter.outcomes import raise_outcome
from holdfast.durable import names
from holdfast.durable.measure import measured
from holdfast.durable.signature import Signature
from holdfast.durable.steps import declared_steps, idempotency_key, step
from holdfast.errors import ModuleWrong, StepProcessDied, StepTimeout
from holdfast.observability import tracing

__all__ = [
    "Child",
    "Queue",
    "Schedule",
    "StepProcessDied",
    "StepTimeout",
    "Workflow",
    "idempotency_key",
    "patch_over",
    "patched",
    "register",
    "step",
    "workflow",
]

P = ParamSpec("P")
R = TypeVar("R")
Overlap = Literal["allow", "skip", "buffer_one"]
CatchUp = Literal["once"] | timedelta | None


_declared: dict[str, Workflow[..., Any]] = {}
_queues: list[Queue] = []
_schedules: list[Schedule] = []
# None: what a test imported for its functions is no part of the process.
_loaded: set[str] = set()
_running: ContextVar[Workflow[..., Any] | None] = ContextVar("running", default=None)


class Child(Generic[R]):
    """A workflow that another one started."""

    def __init__(self, handle: WorkflowHandle[Any], signature: Signature) -> None:
        self._handle, self._signature = handle, signature

    @property
    def workflow_id(self) -> str:
        """Its id."""
        return self._handle.get_workflow_id()

    def result(self) -> R:
        """What it returned, waited for; raises its error."""
        found = self._handle.get_result()
        return self._signature.revive(found)  # type: ignore[no-any-return]


class Workflow(Generic[P, R]):
    """A durable function. Called, it is the plain function: inside another workflow, a part of that one."""

    def __init__(self, name: str, function: Callable[P, R]) -> None:
        self.name = name
        self.function = function
        self.signature = Signature(function)
        self.queue: Queue | None = None
        self.scheduled = False

        @DBOS.workflow(name=name, max_recovery_attempts=None, validate_args=self._validated)
        def durable(*args: Any) -> Any:
            with measured(name), _run_by(self):
                return values.load(self.signature.result(function(*args)).text)  # type: ignore[call-arg]

        self.durable = durable

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Child[R]:
        """Starts it as a child of the workflow that runs, on its own queue.

        Raises ``RuntimeError`` outside a workflow, and where that workflow's queue does not say
        ``parents=True``: as a suspect of poison it would hold the one place that its child needs.
        """
        parent = _running.get()
        if parent is None or parent.queue is None or self.queue is None:
            raise RuntimeError(f"{self.name}.enqueue belongs into the body of a workflow that runs")
        if parent.queue is self.queue:
            raise RuntimeError(f"{self.name} needs another queue than {parent.name}, which waits for it")
        if not parent.queue.parents:
            raise RuntimeError(
                f'{parent.name} starts children: say Queue("{parent.queue.name}", parents=True)'
            )
        arguments = self.signature.stored(*args, **kwargs)
        with tracing.propagated():
            return Child(DBOS.enqueue_workflow(self.queue.name, self.durable, *arguments), self.signature)

    def _validated(self, args: Sequence[Any], _: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        # The scheduler hands a context over after the time, which is always None here.
        given = args[:-1] if self.scheduled and len(args) == 2 else args
        if self.scheduled and given and isinstance(given[0], datetime):
            # Text is what a parameter of any type is made from.
            given = (given[0].astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),)
        try:
            return self.signature.parameters(given), {}
        except BaseException as error:  # of a validator: here it would end the queue's thread
            raise_outcome(error)


@dataclass(frozen=True)
class Queue:
    """A queue of your own and what starts on it. `at_once`: how many one worker runs at the same time.

    `at_once_everywhere`: how many all workers together run at the same time; no limit if None. `parents`:
    its workflows start children and wait for them. Children need another queue, or parents would hold their
    places.
    """

    name: str
    workflows: Sequence[Workflow[..., Any]] = field(repr=False)
    at_once: int = 8
    parents: bool = False
    at_once_everywhere: int | None = None


@dataclass(frozen=True)
class Schedule:
    """Starts a workflow of one parameter, the time of the tick, at every time of `cron` in `time_zone`.

    `cron` has six fields, seconds first: ``0 30 2 * * *`` is half past two. A tick exists once, however many
    workers there are. `workflow` may be a plain workflow of DBOS, which is on `queue`.

    `overlap`: what happens to a tick while a run of the schedule is unfinished, on any worker. ``allow``:
    it starts too. ``skip``: it is not started, and counted as skipped. ``buffer_one``: it starts when that
    run has ended; one tick waits, and further ones are skipped.

    `catch_up`: which ticks are made up for that no worker fired in time. None: no tick. ``once``: the latest.
    A time: all that are at most so old.
    """

    name: str
    workflow: Workflow[[Any], Any] | Callable[[datetime, Any], Any] = field(repr=False)
    cron: str
    overlap: Overlap = "allow"
    catch_up: CatchUp = None
    time_zone: str = "UTC"
    queue: str | None = None

    def __post_init__(self) -> None:
        """Raises ``ModuleWrong``."""
        try:
            cron.check(self.cron, self.time_zone)
        except ValueError as error:
            raise ModuleWrong(f"Schedule {self.name}: {error}.") from None
        if self.overlap not in get_args(Overlap):
            raise ModuleWrong(f'Schedule {self.name}: overlap is "allow", "skip" or "buffer_one".')
        known = self.catch_up is None or self.catch_up == "once"
        if not known and not (isinstance(self.catch_up, timedelta) and self.catch_up > timedelta(0)):
            raise ModuleWrong(f'Schedule {self.name}: catch_up is None, "once" or a positive timedelta.')
        if isinstance(self.workflow, Workflow) and self.queue is not None:
            raise ModuleWrong(
                f"Schedule {self.name}: {self.workflow.name} has its queue from register(Queue(...))."
            )


def workflow(name: str) -> Callable[[Callable[P, R]], Workflow[P, R]]:
    """Makes a function a workflow under a durable name, for example ``orders.fulfil``."""

    def decorate(function: Callable[P, R]) -> Workflow[P, R]:
        made = Workflow(names.fit(name, names.QUEUE_OF | _declared), function)
        _declared[name] = made
        return made

    return decorate


def register(*queues: Queue, schedules: Iterable[Schedule] = ()) -> None:
    """The one call of a module: its queues with their workflows, its schedules. Raises ``ModuleWrong``."""
    schedules = list(schedules)
    for queue in queues:
        names.fit(
            queue.name, [*(each.name for each in _queues), *names.QUEUE_OF.values(), *names.OTHER_QUEUES]
        )
        if queue.at_once < 1:
            raise ModuleWrong(f"Queue {queue.name}: at_once must be at least 1.")
        if queue.at_once_everywhere is not None and queue.at_once_everywhere < 1:
            raise ModuleWrong(f"Queue {queue.name}: at_once_everywhere must be at least 1.")
        for each in queue.workflows:
            if each.queue is not None:
                raise ModuleWrong(
                    f"Workflow {each.name} is on the queues {each.queue.name} and {queue.name}."
                )
            each.queue = queue
        _queues.append(queue)
    for schedule in schedules:
        names.fit(schedule.name, [*(each.name for each in _schedules), *names.SCHEDULES])
        if isinstance(schedule.workflow, Workflow):
            if len(schedule.workflow.signature.names) != 1:
                raise ModuleWrong(
                    f"{schedule.workflow.name} is scheduled: it takes one parameter, the tick's time."
                )
            schedule.workflow.scheduled = True
        _schedules.append(schedule)


def patched(change: str) -> bool:
    """Whether the workflow that runs goes the new way: all that had not come this far before the change.

    ``if patched("insure"): insure()`` adds a step to a workflow that has unfinished
    runs (docs/operate/upgrading.md). The answer is recorded. True outside a workflow.
    """
    return DBOS.workflow_id is None or DBOS.patch(change)


def patch_over(change: str) -> None:
    """In place of the ``if``, once nothing runs any more that went the old way."""
    if DBOS.workflow_id is not None:
        DBOS.deprecate_patch(change)


# --- what the processes ask ------------------------------------------------------------------


def load(modules: Iterable[str]) -> None:
    """Imports the modules and makes their names known. Idempotent.

    Raises ``ModuleWrong``, and what an import of yours raises.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
            raise ModuleWrong(
                f"HOLDFAST_MODULES: there is no module {module} on the import path. In an image, copy it "
                "into /app; beside a checkout, set PYTHONPATH to its directory."
            ) from None
        _loaded.add(module)
    for each in startable().values():
        if each.queue is None:
            raise ModuleWrong(f"Workflow {each.name} is on no queue: name it in register(Queue(...)).")
        each.signature.check(each.name)
        names.QUEUE_OF[each.name] = each.queue.name
        names.ROLE_OF[each.name] = "worker"
    for name, signature in declared_steps.items():
        signature.check_result(f"Step {name}")


def startable() -> dict[str, Workflow[..., Any]]:
    """Workflows that ``POST /workflows`` starts, by name."""
    return dict(_declared) if _loaded else {}


def step_names() -> list[str]:
    """Durable names of the steps."""
    return list(declared_steps) if _loaded else []


def queues() -> list[Queue]:
    """Queues of the modules that are loaded."""
    return list(_queues) if _loaded else []


def leaf_queues() -> frozenset[str]:
    """Those whose workflows start no children: a suspect of poison may move from there."""
    return frozenset(queue.name for queue in queues() if not queue.parents)


def schedules() -> list[Schedule]:
    """Schedules of the modules that are loaded."""
    return list(_schedules) if _loaded else []


@contextmanager
def _run_by(workflow: Workflow[..., Any]) -> Iterator[None]:
    token = _running.set(workflow)
    try:
        yield
    finally:
        _running.reset(token)
