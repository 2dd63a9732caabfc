"""The composition root: what each role runs, and what it registers before and after its launch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from dbos import DBOS, ScheduleInput

from holdfast.dbos_adapter.schedules import is_workflow
from holdfast.durable import names, registry
from holdfast.durable.resources import resources
from holdfast.observability import metrics
from holdfast.settings import Role, Settings
from services.worker.buckets import object_store

log = logging.getLogger("holdfast.composition")

# The net under NOTIFY, which is what makes pickup fast.
_POLL_SECONDS = 3.0

# What all workers together ask of an S3 server: so many pages at once, and so many starts in a while.
_PAGES_AT_ONCE = 10
_PAGE_RATE = {"limit": 50, "period": 10}


def _queue(name: str, worker_concurrency: int | None = None, **shared: Any) -> None:
    """``shared``: limits of all executors together (`global_concurrency`, `limiter`), in DBOS's words."""
    DBOS.register_queue(
        name,
        worker_concurrency=worker_concurrency,
        **shared,
        polling_interval_sec=_POLL_SECONDS,
        on_conflict="always_update",
    )


def _schedule(
    name: str,
    workflow: Callable[..., Any],
    cron: str,
    queue: str | None,
    *,
    time_zone: str = "UTC",
    overlap: registry.Overlap = "allow",
    catch_up: registry.CatchUp = None,
) -> ScheduleInput:
    """A schedule as DBOS takes it; its rules are stored here."""
    window = catch_up.total_seconds() if isinstance(catch_up, timedelta) else None
    resources().ops.run(
        "set_schedule_rules",
        schedule=name,
        overlap=overlap,
        catch_up="none" if catch_up is None else "all" if window else "once",
        catch_up_seconds=window,
    )
    return {
        "schedule_name": name,
        "workflow_fn": workflow,
        "schedule": cron,
        "context": None,
        "queue_name": queue,
        "cron_timezone": None if time_zone == "UTC" else time_zone,
        # Unbounded in DBOS. `Accounting` catches up by the rules of the schedule.
        "automatic_backfill": False,
    }


def _own_schedule(each: registry.Schedule) -> ScheduleInput:
    ours = each.workflow if isinstance(each.workflow, registry.Workflow) else None
    return _schedule(
        each.name,
        each.workflow if ours is None else ours.durable,
        each.cron,
        each.queue if ours is None else names.QUEUE_OF[ours.name],
        time_zone=each.time_zone,
        overlap=each.overlap,
        catch_up=each.catch_up,
    )


def _queues_of(role: Role) -> list[str]:
    mine = {names.QUEUE_OF[name] for name, owner in names.ROLE_OF.items() if owner == role}
    return sorted(mine | {names.SUSPECTS_QUEUE[role], names.TRIALS_QUEUE[role]})


def _announce(role: Role) -> None:
    workflows = [name for name, owner in names.ROLE_OF.items() if owner == role]
    steps = [*names.STEPS[role], *(registry.step_names() if role == "worker" else ())]
    metrics.announce(workflows=workflows, steps=steps, queues=_queues_of(role))


def _listen(role: Role) -> None:
    """Takes work from the queues that this code knows, and from no other of its application.

    In a rolling upgrade a queue may be there already whose workflows only the newer processes know. What
    is claimed from it and unknown stays PENDING until its claim is given back, and again.
    """
    DBOS.listen_queues(_queues_of(role))


def _pause_strangers(application: str) -> None:
    """Pauses schedules whose workflow no code names any more: DBOS would fire them for ever, for nobody.

    Workers may not delete one. It goes on when a module names it again.
    """
    for schedule in DBOS.list_schedules(application_name=application, status="ACTIVE"):
        if not is_workflow(schedule["workflow_name"]):
            DBOS.pause_schedule(schedule["schedule_name"])
            log.warning(
                "schedule %s is paused: no workflow is named %s here",
                schedule["schedule_name"],
                schedule["workflow_name"],
                extra={"action": "schedule.paused"},
            )


@dataclass(frozen=True)
class Api:
    """The API's application: object scope and process caches need a process that answers requests."""

    role: Role = "api"
    suspects_queue: str = names.API_SUSPECTS_QUEUE
    trials_queue: str = names.API_TRIALS_QUEUE
    leaf_queues: frozenset[str] = names.LEAF_QUEUES
    uses_cpu_pool: bool = False
    preload: tuple[str, ...] = ()

    def load(self, settings: Settings) -> None:
        """Imports the modules of your own."""
        registry.load(settings.module_names)

    def prepare(self, settings: Settings) -> None:
        """Imports the workflows, builds the configured instances, opens the credential cache."""
        from services.api import nesting
        from services.api.scope import workflows as scope
        from services.api.users import workflows as users

        log.debug("workflows of %s loaded", nesting.__name__)
        _announce(self.role)
        _listen(self.role)
        scope.build_instances()
        users.open_cache(settings)

    def register(self, settings: Settings) -> None:  # noqa: ARG002
        """Registers the queues. Parents and children have queues of their own, or parents that wait
        would hold the places their children need."""
        for name in (names.SCOPE_QUEUE, names.USERS_QUEUE, names.USER_PAGES_QUEUE):
            _queue(name, worker_concurrency=32)
        for name in (names.NESTED_ROOT_QUEUE, names.NESTED_CHILD_QUEUE, names.NESTED_GRANDCHILD_QUEUE):
            _queue(name, worker_concurrency=32)
        _queue(names.API_SUSPECTS_QUEUE, worker_concurrency=1)
        _queue(names.API_TRIALS_QUEUE, worker_concurrency=1)

    def close(self) -> None:
        """Clears the credential cache."""
        from services.api.users import workflows as users

        users.close_cache()


@dataclass(frozen=True)
class Worker:
    """The worker's application: the Fibonacci queue, the schedules, bucket listings, and your own."""

    role: Role = "worker"
    suspects_queue: str = names.WORKER_SUSPECTS_QUEUE
    trials_queue: str = names.WORKER_TRIALS_QUEUE
    uses_cpu_pool: bool = True
    preload: tuple[str, ...] = ("services.worker.fibonacci.rule",)

    @property
    def leaf_queues(self) -> frozenset[str]:
        """Ours and those of your own."""
        return names.LEAF_QUEUES | registry.leaf_queues()

    def load(self, settings: Settings) -> None:
        """Imports the modules of your own."""
        registry.load(settings.module_names)

    def prepare(self, settings: Settings) -> None:  # noqa: ARG002
        """Imports the workflows."""
        from holdfast.retention import workflow as retention
        from services.worker import poison
        from services.worker.buckets import workflows as buckets
        from services.worker.fibonacci import workflows as fibonacci
        from services.worker.pulse import workflows as pulse

        modules = (buckets, fibonacci, poison, pulse, retention)
        log.debug("workflows loaded: %s", [module.__name__ for module in modules])
        _announce(self.role)
        _listen(self.role)

    def register(self, settings: Settings) -> None:
        """Registers queues and the schedules."""
        from holdfast.retention import workflow as retention
        from services.worker.pulse import workflows as pulse

        _queue(names.FIBONACCI_BATCH_QUEUE, worker_concurrency=32)
        # Greedy claims leave the last numbers to one worker while the other idles.
        _queue(names.FIBONACCI_QUEUE, worker_concurrency=settings.fibonacci_claims)
        # Each computes one number at a time, in its turn with the queue's.
        _queue(names.FIBONACCI_SEQUENCE_QUEUE, worker_concurrency=settings.fibonacci_claims)
        _queue(names.PULSE_QUEUE, worker_concurrency=4)
        _queue(names.PURGE_QUEUE, worker_concurrency=1)
        _queue(names.BUCKET_LISTINGS_QUEUE, worker_concurrency=32)
        _queue(names.BUCKET_PAGES_QUEUE, global_concurrency=_PAGES_AT_ONCE, limiter=_PAGE_RATE)
        _queue(names.WORKER_SUSPECTS_QUEUE, worker_concurrency=1)
        _queue(names.WORKER_TRIALS_QUEUE, worker_concurrency=1)
        for queue in registry.queues():
            everywhere = queue.at_once_everywhere
            # DBOS refuses a worker's limit above the shared one.
            _queue(
                queue.name,
                worker_concurrency=min(queue.at_once, everywhere or queue.at_once),
                global_concurrency=everywhere,
            )
        DBOS.apply_schedules(
            [
                _schedule(
                    names.PULSE_SCHEDULE,
                    pulse.tick,
                    names.PULSE_CRON,
                    names.PULSE_QUEUE,
                    catch_up=timedelta(seconds=settings.pulse_catch_up_seconds) or None,
                ),
                # The next purge finds whatever is old by then.
                _schedule(names.PURGE_SCHEDULE, retention.tick, names.PURGE_CRON, names.PURGE_QUEUE),
                *(_own_schedule(each) for each in registry.schedules()),
            ]
        )
        for each in registry.schedules():
            DBOS.resume_schedule(each.name)
        _pause_strangers(settings.application_name(self.role))
        (DBOS.resume_schedule if settings.retention_seconds else DBOS.pause_schedule)(names.PURGE_SCHEDULE)

    def close(self) -> None:
        """Lets the S3 client go."""
        object_store.close()
