"""Workflows of your own: a module says what it has in one call, and every process knows it then.

``HOLDFAST_MODULES`` names the modules. All processes import them, the workers run what they register. How
to write one: docs/start/your-own-workflow.md. Functions stay plain: called outside a workflow, a step or a
workflow is the function that it was, so a unit test needs no stack.

Durable are the names given here (workflows, steps, queues, schedules), the order of a workflow's steps,
and the names and types of its parameters: docs/operate/upgrading.md.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, ParamSpec, TypeVar

from dbos import DBOS

from holdfast.durable import names
from holdfast.durable.declarations import Queue, Schedule
from holdfast.durable.steps import declared_steps, idempotency_key, step
from holdfast.durable.workflows import Child, DbosWorkflow, Workflow
from holdfast.errors import ModuleWrong, StepProcessDied, StepTimeout
from holdfast.settings import Role

__all__ = [
    "Child",
    "DbosWorkflow",
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
_declared: dict[str, Workflow[..., Any]] = {}
_queues: list[Queue] = []
_schedules: list[Schedule] = []
# Those of workflows that DBOS's own decorators declare, by role: names alone, known once they are registered.
_named_queues: dict[Role, list[Queue]] = {"api": [], "worker": []}
_named_schedules: dict[Role, list[Schedule]] = {"api": [], "worker": []}
_labels: dict[str, DbosWorkflow] = {}
# None: what a test imported for its functions is no part of the process.
_loaded: set[str] = set()


def workflow(name: str) -> Callable[[Callable[P, R]], Workflow[P, R]]:
    """Makes a function a workflow under a durable name, for example ``orders.fulfil``."""

    def decorate(function: Callable[P, R]) -> Workflow[P, R]:
        made = Workflow(names.fit(name, names.QUEUE_OF | _declared), function)
        _declared[name] = made
        return made

    return decorate


def register(
    *queues: Queue, schedules: Iterable[Schedule] = (), steps: Iterable[str] = (), role: Role = "worker"
) -> None:
    """The one call of a module: its queues with their workflows, its schedules. Raises ``ModuleWrong``.

    `steps`: the names of steps that DBOS's own decorators declare; /metrics shows them from the start.
    `role`: which processes run it; only workflows of DBOS's own decorators can be of the API.
    """
    schedules = list(schedules)
    for queue in queues:
        _check(queue, role)
        if queue.names():
            _add_names(queue, role)
            continue
        for each in queue.functions():
            if each.queue is not None:
                raise ModuleWrong(
                    f"Workflow {each.name} is on the queues {each.queue.name} and {queue.name}."
                )
            each.queue = queue
        _queues.append(queue)
    for name in steps:
        names.STEPS[role].append(names.fit(name, [*declared_steps, *chain(*names.STEPS.values())]))
    for schedule in schedules:
        named = chain(*_named_schedules.values())
        names.fit(schedule.name, [each.name for each in (*_schedules, *named)])
        if isinstance(schedule.workflow, DbosWorkflow):
            if schedule.workflow.name not in names.QUEUE_OF:
                raise ModuleWrong(f"Schedule {schedule.name}: {schedule.workflow.name} is on no queue.")
            _named_schedules[role].append(schedule)
            continue
        if isinstance(schedule.workflow, Workflow):
            if len(schedule.workflow.signature.names) != 1:
                raise ModuleWrong(
                    f"{schedule.workflow.name} is scheduled: it takes one parameter, the tick's time."
                )
            schedule.workflow.scheduled = True
        _schedules.append(schedule)


def _check(queue: Queue, role: Role) -> None:
    taken = [*(each.name for each in _queues), *names.QUEUE_OF.values(), *names.OTHER_QUEUES]
    names.fit(queue.name, taken)
    if isinstance(queue.at_once, int) and queue.at_once < 1:
        raise ModuleWrong(f"Queue {queue.name}: at_once must be at least 1.")
    if queue.at_once_everywhere is not None and queue.at_once_everywhere < 1:
        raise ModuleWrong(f"Queue {queue.name}: at_once_everywhere must be at least 1.")
    if queue.names() and queue.functions():
        raise ModuleWrong(
            f"Queue {queue.name}: workflows of DBOS's own decorators need a queue of their own."
        )
    if role == "api" and not queue.names():
        raise ModuleWrong(f"Queue {queue.name}: only workers run workflows that are functions.")


def _add_names(queue: Queue, role: Role) -> None:
    for each in queue.names():
        names.QUEUE_OF[names.fit(each.name, names.QUEUE_OF | _declared)] = queue.name
        names.ROLE_OF[each.name] = role
        _labels[each.name] = each
    if not queue.parents:
        names.LEAF_QUEUES.add(queue.name)
    _named_queues[role].append(queue)


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


def queues_of(role: Role) -> list[Queue]:
    """All queues that processes of the role run, beside those of suspects and trials."""
    return [*_named_queues[role], *(queues() if role == "worker" else ())]


def schedules_of(role: Role) -> list[Schedule]:
    """All schedules of the role."""
    return [*_named_schedules[role], *(schedules() if role == "worker" else ())]


def declared_by_name(name: str) -> DbosWorkflow | None:
    """What is registered of a workflow that DBOS's own decorators declare."""
    return _labels.get(name)
