"""The registry of user-defined workflows: a module registers its queues and schedules in one call.

``HOLDFAST_MODULES`` names the modules. All processes import them; the workers run their workflows. A module
that registers nothing here is plain DBOS (`holdfast.durable.plain_modules`).
docs/start/your-own-workflow.md describes how to write one. Functions stay plain: outside a workflow, a step
or a workflow behaves like the undecorated function, so a unit test needs no running stack.

These are durable: the names given here (workflows, steps, queues, schedules), the order of a workflow's
steps, and the names and types of its parameters. See docs/operate/upgrading.md.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from dbos import DBOS

from holdfast.durable import names, plain_modules
from holdfast.durable.declarations import Queue, Schedule
from holdfast.durable.steps import attempt, declared_steps, idempotency_key, step
from holdfast.durable.workflows import Child, DbosWorkflow, Workflow
from holdfast.errors import ModuleFailed, ModuleWrong, StepProcessDied, StepTimeout
from holdfast.settings import Role

__all__ = [
    "Child",
    "DbosWorkflow",
    "Queue",
    "Schedule",
    "StepProcessDied",
    "StepTimeout",
    "Workflow",
    "attempt",
    "idempotency_key",
    "patch_over",
    "patched",
    "register",
    "step",
    "workflow",
]

P = ParamSpec("P")
R = TypeVar("R")
# Raised on import, these come of the code: no later attempt can succeed.
_FINAL = (SyntaxError, ImportError, NameError, AttributeError, TypeError)
_declared: dict[str, Workflow[..., Any]] = {}
_queues: list[Queue] = []
_schedules: list[Schedule] = []
# Queues and schedules of workflows that DBOS's own decorators declare, by role. Only their names are known.
_named_queues: dict[Role, list[Queue]] = {"api": [], "worker": []}
_named_schedules: dict[Role, list[Schedule]] = {"api": [], "worker": []}
_labels: dict[str, DbosWorkflow | Workflow[..., Any]] = {}
# Modules whose workflows are part of every process: those of the platform and of its application.
_builtin: set[str] = set()
# While this is empty, only built-in modules count: a module that a test imports is not part of the process.
_loaded: set[str] = set()


def workflow(
    name: str, *, label: str | None = None, label_with_input: str | None = None
) -> Callable[[Callable[P, R]], Workflow[P, R]]:
    """Declares a function, which may be async, as a workflow under a durable name such as ``orders.fulfil``.

    `label` is its label on the operator's page; None means its name. `label_with_input` is the label if the
    input begins with numbers, which replace ``{0}`` and ``{1}``.
    """

    def decorate(function: Callable[P, R]) -> Workflow[P, R]:
        fitting = names.fit(name, names.QUEUE_OF | _declared)
        made = Workflow(fitting, function, label, label_with_input)
        _declared[name] = made
        return made

    return decorate


def register(
    *queues: Queue, schedules: Iterable[Schedule] = (), steps: Iterable[str] = (), role: Role = "worker"
) -> None:
    """Registers a module's queues with their workflows, and its schedules. Raises ``ModuleWrong``.

    `steps` are the names of steps that DBOS's own decorators declare; /metrics shows them from the start.
    `role` is the role that runs them; the API can run only workflows of DBOS's own decorators.
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
    """Whether the running workflow takes the new path: True unless it passed this point before the change.

    ``if patched("insure"): insure()`` adds a step to a workflow that has unfinished
    runs (docs/operate/upgrading.md). The answer is recorded. Returns True outside a workflow.
    """
    return DBOS.workflow_id is None or DBOS.patch(change)


def patch_over(change: str) -> None:
    """Replaces the ``if patched(...)`` once every run that took the old path has ended."""
    if DBOS.workflow_id is not None:
        DBOS.deprecate_patch(change)


# --- functions that the processes call ---------------------------------------------------------


def load_builtin(modules: Iterable[str]) -> None:
    """Imports modules whose workflows and steps are part of every process, and are not started by name.

    Modules that only declare `DbosWorkflow` are known as soon as they are imported. Idempotent.
    """
    for module in modules:
        importlib.import_module(module)
        _builtin.add(module)
    for each in _declared.values():
        if is_builtin(each):
            _make_known(each)
    for name, signature in declared_steps.items():
        if signature.module in _builtin and name not in names.STEPS["worker"]:
            names.STEPS["worker"].append(name)


def is_builtin(workflow: object) -> bool:
    """Whether the workflow belongs to the platform or its application, not to a user-defined module."""
    if isinstance(workflow, Workflow):
        return workflow.signature.module in _builtin
    return isinstance(workflow, DbosWorkflow)


def _make_known(workflow: Workflow[..., Any]) -> None:
    """Adds a workflow to the tables in `names`. Raises ``ModuleWrong``."""
    if workflow.queue is None:
        raise ModuleWrong(f"Workflow {workflow.name} is on no queue: name it in register(Queue(...)).")
    workflow.signature.check(workflow.name)
    names.QUEUE_OF[workflow.name] = workflow.queue.name
    names.ROLE_OF[workflow.name] = "worker"
    _labels[workflow.name] = workflow
    if is_builtin(workflow) and not workflow.queue.parents:
        names.LEAF_QUEUES.add(workflow.queue.name)


def _place(error: Exception) -> str:
    """Returns the file and line where an import failed; "" for a syntax error, whose text names them."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) or not frames:
        return ""
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"


def load(modules: Iterable[str]) -> None:
    """Imports the modules and adds their names to the tables in `names`. Idempotent.

    Raises ``ModuleWrong``, also if a module's own code cannot be imported, and ``ModuleFailed`` if it raises
    another error, such as one of the network, which the next attempt may not meet.
    """
    for module in modules:
        typed = len(_declared), len(_queues), len(_labels)
        try:
            with plain_modules.refusing_an_application(module):
                found = importlib.import_module(module)
        except ModuleWrong:
            raise
        except Exception as error:
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            if missing is None or not f"{module}.".startswith(f"{missing}."):
                kind = ModuleWrong if isinstance(error, _FINAL) else ModuleFailed
                raise kind(
                    f"HOLDFAST_MODULES: {module} cannot be imported: {type(error).__name__}: {error}"
                    f"{_place(error)}"
                ) from error
            raise ModuleWrong(
                f"HOLDFAST_MODULES: there is no module {module} on the import path. In an image, copy it "
                "into /app; beside a checkout, set PYTHONPATH to its directory."
            ) from None
        if module not in _loaded and typed == (len(_declared), len(_queues), len(_labels)):
            plain_modules.add(found)
        _loaded.add(module)
    plain_modules.note_workflows(declared=_declared)
    for each in startable().values():
        _make_known(each)
    for name, signature in declared_steps.items():
        signature.check_result(f"Step {name}")


def startable() -> dict[str, Workflow[..., Any]]:
    """Returns the workflows that ``POST /workflows`` can start, by name."""
    return {name: each for name, each in _declared.items() if not is_builtin(each)} if _loaded else {}


def step_names() -> list[str]:
    """Returns the durable names of the steps of loaded modules, without built-in ones."""
    user_defined = [name for name, each in declared_steps.items() if each.module not in _builtin]
    return user_defined if _loaded else []


def queues() -> list[Queue]:
    """Returns the queues of built-in and of loaded modules, whose workflows are functions."""
    return [each for each in _queues if _loaded or any(map(is_builtin, each.workflows))]


def leaf_queues() -> frozenset[str]:
    """Returns the queues whose workflows start no children: a suspect may be moved away from them."""
    return frozenset(queue.name for queue in queues() if not queue.parents)


def schedules() -> list[Schedule]:
    """Returns the schedules of built-in and of loaded modules, without those of `DbosWorkflow`."""
    return [each for each in _schedules if _loaded or is_builtin(each.workflow)]


def queues_of(role: Role) -> list[Queue]:
    """Returns all queues that processes of the role run, except the queues of suspects and trials."""
    return [*_named_queues[role], *(queues() if role == "worker" else ())]


def schedules_of(role: Role) -> list[Schedule]:
    """Returns all schedules of the role."""
    return [*_named_schedules[role], *(schedules() if role == "worker" else ())]


def declared_by_name(name: str) -> DbosWorkflow | Workflow[..., Any] | None:
    """Returns the declaration of a known workflow, or None."""
    return _labels.get(name)
