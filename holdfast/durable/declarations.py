"""Queues and schedules as modules declare them."""

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
    """A queue of your own and what starts on it. `at_once`: how many one worker runs at the same time.

    `at_once_everywhere`: how many all workers together run at the same time; no limit if None. `parents`:
    its workflows start children and wait for them. Children need another queue, or parents would hold their
    places. `rate`: how many all workers together start in so many seconds. A function of the settings may
    stand for `at_once`; None is no limit of one worker.
    """

    name: str
    workflows: Sequence[Workflow[..., Any]] | Sequence[DbosWorkflow] = field(repr=False)
    at_once: int | Callable[[Settings], int] | None = 8
    parents: bool = False
    at_once_everywhere: int | None = None
    rate: tuple[int, int] | None = None

    def functions(self) -> list[Workflow[..., Any]]:
        """Its workflows that are functions."""
        return [each for each in self.workflows if isinstance(each, Workflow)]

    def names(self) -> list[DbosWorkflow]:
        """Its workflows that DBOS's own decorators declare."""
        return [each for each in self.workflows if isinstance(each, DbosWorkflow)]

    def limits(self, settings: Settings) -> dict[str, Any]:
        """In DBOS's words, without those that it does not have."""
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
    """Starts a workflow of one parameter, the time of the tick, at every time of `cron` in `time_zone`.

    `cron` has six fields, seconds first: ``0 30 2 * * *`` is half past two. A tick exists once, however many
    workers there are. `workflow` may be a plain workflow of DBOS, which is on `queue`, or
    the name of one that is registered.

    `overlap`: what happens to a tick while a run of the schedule is unfinished, on any worker. ``allow``:
    it starts too. ``skip``: it is not started, and counted as skipped. ``buffer_one``: it starts when that
    run has ended; one tick waits, and further ones are skipped.

    `catch_up`: which ticks are made up for that no worker fired in time. None: no tick. ``once``: the latest.
    A time: all that are at most so old. A function of the settings may say it.

    `enabled`: by the settings, whether it is paused or resumed when a worker starts.
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
        """Raises ``ModuleWrong``."""
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
        """Its `catch_up` under these settings."""
        return self.catch_up(settings) if callable(self.catch_up) else self.catch_up
