"""The application of a role, built from the registrations of its modules."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from types import ModuleType
from typing import Any

from dbos import DBOS, ScheduleInput

from holdfast.dbos_adapter.definitions import DefinitionLedger
from holdfast.dbos_adapter.schedules import workflow_function
from holdfast.durable import names, plain_modules, registry
from holdfast.durable.declarations import Schedule
from holdfast.durable.resources import resources
from holdfast.durable.workflows import DbosWorkflow, Workflow
from holdfast.observability import metrics
from holdfast.settings import Role, Settings

log = logging.getLogger("holdfast.composition")

# Interval of the fallback poll. NOTIFY makes pickup fast.
_POLL_SECONDS = 3.0

_RETENTION = "holdfast.retention.workflow"
registry.load_builtin([_RETENTION])


@dataclass(frozen=True)
class RegisteredWork:
    """The application of a role: the queues, steps and schedules that modules have registered for it.

    `workflow_modules` are imported before the launch. Such a module may have a function ``start(settings)``,
    which is called then, and a function ``close()``, which is called at the process's end.
    """

    role: Role
    workflow_modules: tuple[str, ...] = ()
    uses_cpu_pool: bool = False
    preload: tuple[str, ...] = ()
    settings_class: type[Settings] = Settings

    @property
    def suspects_queue(self) -> str:
        """The queue on which suspected poison workflows run one at a time."""
        return names.SUSPECTS_QUEUE[self.role]

    @property
    def trials_queue(self) -> str:
        """The queue on which suspects run alone in their process, before they are parked."""
        return names.TRIALS_QUEUE[self.role]

    @property
    def leaf_queues(self) -> frozenset[str]:
        """Queues whose workflows may become suspects. Only workers know those of workflow functions."""
        functions = registry.leaf_queues() if self.role == "worker" else frozenset[str]()
        return functions | names.LEAF_QUEUES

    def load(self, settings: Settings) -> None:
        """Imports the modules that ``HOLDFAST_MODULES`` names."""
        registry.load(settings.module_names)

    def prepare(self, settings: Settings) -> None:
        """Imports the workflows, and limits DBOS to the queues of this role."""
        modules = self._modules()
        log.debug("workflows loaded: %s", [module.__name__ for module in modules])
        announce(self.role)
        # Claim only from queues that this code knows. In a rolling upgrade a queue may exist whose workflows
        # only newer processes know; a workflow claimed from it here would stay PENDING.
        DBOS.listen_queues(_queue_names(self.role))
        for module in modules:
            if start := getattr(module, "start", None):
                start(settings)

    def register(self, settings: Settings) -> None:
        """Registers the queues and, in workers, the schedules, where no newer live code declares them."""
        ledger = self._definitions(settings)
        ledger.declare()
        ledger.start("queue")
        if self.role == "worker":
            # It may register queues of its own, for schedules.
            plain_modules.set_up()
            ledger.start("schedule")

    def apply_definitions(self, settings: Settings) -> None:
        """Applies what `register` left to newer live code that has gone meanwhile."""
        self._definitions(settings).settle()

    def _definitions(self, settings: Settings) -> DefinitionLedger:
        limits = {queue.name: queue.limits(settings) for queue in registry.queues_of(self.role)}
        # A process runs one suspect at a time.
        limits |= {name: {"worker_concurrency": 1} for name in (self.suspects_queue, self.trials_queue)}
        schedules = {each.name: each for each in registry.schedules_of(self.role)}
        definitions = {name: _definition(each, settings) for name, each in schedules.items()}

        def apply(kind: str, name: str) -> None:
            if kind == "schedule":
                _apply_schedule(schedules[name], definitions[name])
            else:
                DBOS.register_queue(
                    name, **limits[name], polling_interval_sec=_POLL_SECONDS, on_conflict="always_update"
                )

        own, application = {"queue": limits, "schedule": definitions}, settings.application_name(self.role)
        return DefinitionLedger(resources().ops, resources().executor_id, application, own, apply)

    @property
    def schedule_names(self) -> list[str]:
        """The schedules that the modules of this role declare."""
        return [each.name for each in registry.schedules_of(self.role)]

    @property
    def foreign_workflows(self) -> set[str]:
        """Workflows that are imported here, and that only the other role runs."""
        others = {name for name, owner in names.ROLE_OF.items() if owner != self.role}
        return others if self.role == "worker" else others | names.PLAIN

    def close(self) -> None:
        """Calls ``close()`` of each workflow module, at the process's end."""
        for module in self._modules():
            if close := getattr(module, "close", None):
                close()

    def _modules(self) -> list[ModuleType]:
        own = (_RETENTION,) if self.role == "worker" else ()
        return [import_module(name) for name in (*self.workflow_modules, *own)]


def announce(role: Role) -> None:
    """Initializes the metrics of the role's workflows, steps and queues with zero."""
    workflows = [name for name, owner in names.ROLE_OF.items() if owner == role]
    workflows += sorted(names.PLAIN) if role == "worker" else []
    steps = [*names.STEPS[role], *(registry.step_names() if role == "worker" else ())]
    metrics.announce(workflows=workflows, steps=steps, queues=_queue_names(role))


def _queue_names(role: Role) -> list[str]:
    mine = {names.QUEUE_OF[name] for name, owner in names.ROLE_OF.items() if owner == role}
    return sorted(mine | {names.SUSPECTS_QUEUE[role], names.TRIALS_QUEUE[role]})


def _definition(each: Schedule, settings: Settings) -> dict[str, Any]:
    catch_up = each.caught_up(settings)
    window = catch_up.total_seconds() if isinstance(catch_up, timedelta) else None
    return {
        "workflow": getattr(each.workflow, "name", None) or getattr(each.workflow, "__qualname__", ""),
        "cron": each.cron,
        "queue": _queue(each),
        "time_zone": None if each.time_zone == "UTC" else each.time_zone,
        "overlap": each.overlap,
        "catch_up": "none" if catch_up is None else "all" if window else "once",
        "catch_up_seconds": window,
        "enabled": None if each.enabled is None else each.enabled(settings),
    }


def _apply_schedule(each: Schedule, definition: Mapping[str, Any]) -> None:
    rules = {key: definition[key] for key in ("overlap", "catch_up", "catch_up_seconds")}
    resources().ops.run("set_schedule_rules", schedule=each.name, **rules)
    schedule: ScheduleInput = {
        "schedule_name": each.name,
        "workflow_fn": _function(each),
        "schedule": definition["cron"],
        "context": None,
        "queue_name": definition["queue"],
        "cron_timezone": definition["time_zone"],
        # DBOS's backfill has no bound. `Accounting` catches up by the rules of the schedule.
        "automatic_backfill": False,
    }
    DBOS.apply_schedules([schedule])
    if definition["enabled"] is not None:
        (DBOS.resume_schedule if definition["enabled"] else DBOS.pause_schedule)(each.name)
    elif not registry.is_builtin(each.workflow):
        # Paused while no live code declared it: `Accounting` does that.
        DBOS.resume_schedule(each.name)


def _queue(each: Schedule) -> str | None:
    if isinstance(each.workflow, DbosWorkflow | Workflow):
        return names.QUEUE_OF[each.workflow.name]
    return each.queue


def _function(each: Schedule) -> Any:
    """Returns the function that DBOS starts at each tick."""
    if isinstance(each.workflow, DbosWorkflow):
        return workflow_function(each.workflow.name)
    return each.workflow.durable if isinstance(each.workflow, Workflow) else each.workflow
