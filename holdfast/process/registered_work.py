"""What a role runs, by what its modules have registered."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from types import ModuleType
from typing import Any

from dbos import DBOS, ScheduleInput

from holdfast.dbos_adapter.schedules import workflow_function
from holdfast.durable import names, registry
from holdfast.durable.declarations import Schedule
from holdfast.durable.resources import resources
from holdfast.durable.workflows import DbosWorkflow, Workflow
from holdfast.observability import metrics
from holdfast.settings import Role, Settings

log = logging.getLogger("holdfast.composition")

# Fallback poll: NOTIFY is what makes pickup fast.
_POLL_SECONDS = 3.0

_RETENTION = "holdfast.retention.workflow"


@dataclass(frozen=True)
class RegisteredWork:
    """The application of a role: the queues, steps and schedules that modules have registered for it.

    `workflow_modules` are imported before the launch. Such a module may have a function ``start(settings)``,
    which is called then, and a function ``close()``, called at the process's end.
    """

    role: Role
    workflow_modules: tuple[str, ...] = ()
    uses_cpu_pool: bool = False
    preload: tuple[str, ...] = ()

    @property
    def suspects_queue(self) -> str:
        """Where suspects of poison run one at a time."""
        return names.SUSPECTS_QUEUE[self.role]

    @property
    def trials_queue(self) -> str:
        """Where they run alone in their process, before they are parked."""
        return names.TRIALS_QUEUE[self.role]

    @property
    def leaf_queues(self) -> frozenset[str]:
        """Queues whose workflows may be moved there; of functions, only where they run."""
        functions = registry.leaf_queues() if self.role == "worker" else frozenset[str]()
        return functions | names.LEAF_QUEUES

    def load(self, settings: Settings) -> None:
        """Imports the modules that ``HOLDFAST_MODULES`` names."""
        registry.load(settings.module_names)

    def prepare(self, settings: Settings) -> None:
        """Imports the workflows, and shows what the process listens to."""
        modules = self._modules()
        log.debug("workflows loaded: %s", [module.__name__ for module in modules])
        announce(self.role)
        # Only from the queues that this code knows: in a rolling upgrade a queue may be there already whose
        # workflows only newer processes know, and what is claimed from it would stay PENDING.
        DBOS.listen_queues(_queue_names(self.role))
        for module in modules:
            if start := getattr(module, "start", None):
                start(settings)

    def register(self, settings: Settings) -> None:
        """Registers the queues and, in workers, the schedules."""
        limits = {queue.name: queue.limits(settings) for queue in registry.queues_of(self.role)}
        # One suspect at a time.
        limits |= {name: {"worker_concurrency": 1} for name in (self.suspects_queue, self.trials_queue)}
        for name, its_limits in limits.items():
            DBOS.register_queue(
                name, **its_limits, polling_interval_sec=_POLL_SECONDS, on_conflict="always_update"
            )
        if self.role == "worker":
            _register_schedules(registry.schedules_of(self.role), settings)
            _pause_strangers(settings.application_name(self.role))

    def close(self) -> None:
        """At the process's end."""
        for module in self._modules():
            if close := getattr(module, "close", None):
                close()

    def _modules(self) -> list[ModuleType]:
        own = (_RETENTION,) if self.role == "worker" else ()
        return [import_module(name) for name in (*self.workflow_modules, *own)]


def announce(role: Role) -> None:
    """Shows the role's workflows, steps and queues in /metrics, at zero."""
    workflows = [name for name, owner in names.ROLE_OF.items() if owner == role]
    steps = [*names.STEPS[role], *(registry.step_names() if role == "worker" else ())]
    metrics.announce(workflows=workflows, steps=steps, queues=_queue_names(role))


def _queue_names(role: Role) -> list[str]:
    mine = {names.QUEUE_OF[name] for name, owner in names.ROLE_OF.items() if owner == role}
    return sorted(mine | {names.SUSPECTS_QUEUE[role], names.TRIALS_QUEUE[role]})


def _register_schedules(schedules: list[Schedule], settings: Settings) -> None:
    DBOS.apply_schedules([_schedule(each, settings) for each in schedules])
    for each in schedules:
        if each.enabled is not None:
            (DBOS.resume_schedule if each.enabled(settings) else DBOS.pause_schedule)(each.name)
        elif not isinstance(each.workflow, DbosWorkflow):
            # A process that did not have its module has paused it.
            DBOS.resume_schedule(each.name)


def _schedule(each: Schedule, settings: Settings) -> ScheduleInput:
    """A schedule as DBOS takes it; its rules are stored here."""
    function: Any = each.workflow
    queue = each.queue
    if isinstance(function, DbosWorkflow):
        queue = names.QUEUE_OF[function.name]
        function = workflow_function(function.name)
    elif isinstance(function, Workflow):
        queue, function = names.QUEUE_OF[function.name], function.durable
    catch_up = each.caught_up(settings)
    window = catch_up.total_seconds() if isinstance(catch_up, timedelta) else None
    resources().ops.run(
        "set_schedule_rules",
        schedule=each.name,
        overlap=each.overlap,
        catch_up="none" if catch_up is None else "all" if window else "once",
        catch_up_seconds=window,
    )
    return {
        "schedule_name": each.name,
        "workflow_fn": function,
        "schedule": each.cron,
        "context": None,
        "queue_name": queue,
        "cron_timezone": None if each.time_zone == "UTC" else each.time_zone,
        # Unbounded in DBOS. `Accounting` catches up by the rules of the schedule.
        "automatic_backfill": False,
    }


def _pause_strangers(application: str) -> None:
    """Pauses schedules whose workflow no code names any more: DBOS would fire them for ever, for nobody.

    Workers may not delete one. It goes on when a module names it again.
    """
    for schedule in DBOS.list_schedules(application_name=application, status="ACTIVE"):
        if workflow_function(schedule["workflow_name"]) is None:
            DBOS.pause_schedule(schedule["schedule_name"])
            log.warning(
                "schedule %s is paused: no workflow is named %s here",
                schedule["schedule_name"],
                schedule["workflow_name"],
                extra={"action": "schedule.paused"},
            )
