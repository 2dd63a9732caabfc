"""Declarations of queues and schedules, as modules write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from holdfast.dbos_adapter import cron
from holdfast.durable.workflows import DbosWorkflow, Workflow
from holdfast.errors import ModuleWrong
from holdfast.settings import Settings

Overlap = Literal["allow", "skip", "buffer_one"]
CatchUp = Literal["once"] | timedelta | None


@dataclass(frozen=True)
class Queue:
    """A user-defined queue and the workflows that start on it.

    `at_once` limits how many workflows one worker runs concurrently. It may be a function of the settings;
    None means no limit per worker. `at_once_everywhere` limits how many all workers together run
    concurrently; None means no limit. `rate` is a pair (count, seconds): all workers together start at most
    `count` workflows in that time. `parents` means that the queue's workflows start children and wait for
    them. Children need another queue, otherwise their parents would occupy the slots that they need.
    """

    name: str
    workflows: Sequence[Workflow[..., Any] | DbosWorkflow] = field(repr=False)
    at_once: int | Callable[[Settings], int] | None = 8
    parents: bool = False
    at_once_everywhere: int | None = None
    rate: tuple[int, int] | None = None

    def functions(self) -> list[Workflow[..., Any]]:
        """Returns the queue's workflows that are functions."""
        return [each for each in self.workflows if isinstance(each, Workflow)]

    def names(self) -> list[DbosWorkflow]:
        """Returns the queue's workflows that DBOS's own decorators declare."""
        return [each for each in self.workflows if isinstance(each, DbosWorkflow)]

    def limits(self, settings: Settings) -> dict[str, Any]:
        """Returns the queue's limits under DBOS's parameter names, without limits that are not set."""
        at_once = self.at_once(settings) if callable(self.at_once) else self.at_once
        everywhere = self.at_once_everywhere
        limits = {
            # DBOS refuses a worker's limit above the shared one.
            "worker_concurrency": None if at_once is None else min(at_once, everywhere or at_once),
            "global_concurrency": everywhere,
            "limiter": self.rate and {"limit": self.rate[0], "period": self.rate[1]},
        }
        return {name: limit for name, limit in limits.items() if limit is not None}


@dataclass(frozen=True)
class Schedule:
    """Starts a workflow at every time of `cron` in `time_zone`. Its one parameter is the time of the tick.

    `cron` has six fields, seconds first: ``0 30 2 * * *`` is half past two. Each tick fires once, regardless
    of the number of workers. `workflow` may also be a plain workflow of DBOS, which runs on `queue`, or the
    name of a registered workflow.

    `overlap` decides what happens to a tick while a run of the schedule is unfinished on any worker.
    ``allow`` starts it too. ``skip`` does not start it, and counts it as skipped. ``buffer_one`` starts it
    when that run has ended: one tick waits, and further ones are skipped.

    `catch_up` decides which ticks run later if no worker fired them in time. None: no tick. ``once``: the
    latest tick. A timedelta: all ticks that are not older. It may be a function of the settings.

    `enabled` decides by the settings whether a starting worker resumes or pauses the schedule.
    """

    name: str
    workflow: Workflow[[Any], Any] | Callable[[datetime, Any], Any] | DbosWorkflow = field(repr=False)
    cron: str
    overlap: Overlap = "allow"
    catch_up: CatchUp | Callable[[Settings], CatchUp] = None
    time_zone: str = "UTC"
    queue: str | None = None
    enabled: Callable[[Settings], bool] | None = None

    def __post_init__(self) -> None:
        """Checks the fields. Raises ``ModuleWrong``."""
        try:
            cron.check(self.cron, self.time_zone)
        except ValueError as error:
            raise ModuleWrong(f"Schedule {self.name}: {error}.") from None
        if self.overlap not in get_args(Overlap):
            raise ModuleWrong(f'Schedule {self.name}: overlap is "allow", "skip" or "buffer_one".')
        known = self.catch_up is None or self.catch_up == "once" or callable(self.catch_up)
        if not known and not (isinstance(self.catch_up, timedelta) and self.catch_up > timedelta(0)):
            raise ModuleWrong(f'Schedule {self.name}: catch_up is None, "once" or a positive timedelta.')
        if isinstance(self.workflow, Workflow | DbosWorkflow) and self.queue is not None:
            raise ModuleWrong(
                f"Schedule {self.name}: {self.workflow.name} has its queue from register(Queue(...))."
            )

    def caught_up(self, settings: Settings) -> CatchUp:
        """Returns the value of `catch_up` under these settings."""
        return self.catch_up(settings) if callable(self.catch_up) else self.catch_up
