"""Decides which workflows are to blame when a process dies or hangs, and what happens to them.

This module only decides; `takeover` writes the decisions (parking too), and `trials` runs the trials.

Only the death or hang of a process counts a crash, never an orderly handover. For a workflow that recorded a
step since its last crash the count begins again at one. One death does not show which of the running
workflows caused it. All of them are therefore counted, and none is parked for it:

- From its second crash a workflow is a suspect. Suspects run one at a time on a separate queue, so that two
  of them never run in one process, and one poison workflow costs a healthy one at most two counts.
- The last run before the limit is a trial, in which the workflow runs alone in its process. Only a death
  during which no other workflow ran parks it. If others ran too, the death does not count for the workflow on
  trial, which is tried again. A death before the trial has started (after its claim the workflow waits until
  it is alone) does not count either.

A workflow that only waits (sleeps, or waits for a message, an event or a child) cannot end a process. It is
never counted, and returns to its home queue: the single slot for suspects and a trial are for workflows that
run. Poison that waits while its own concurrent branches (``asyncio.gather``) run now and then can return from
its trial to the home queue again and again. Its crashes there still count, and it is parked at twice the
limit.

As a result, poison is parked at the limit, and a healthy workflow loses at most some waiting time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

Action = Literal["requeue", "quarantine", "try", "park"]

SUSPECT_FROM = 2


@dataclass(frozen=True)
class InFlight:
    """A workflow that a lost executor had claimed."""

    workflow_id: str
    name: str
    queue_name: str | None
    home_queue: str | None
    """The queue of origin, if the workflow was moved to the queue of suspects or trials before."""
    crashes: int
    steps_recorded: int
    steps_at_last_crash: int
    waits: bool
    """Whether the workflow was only waiting."""
    trial_started: bool = False
    """Whether this claim is a trial that has started, alone in its process."""


@dataclass(frozen=True)
class Verdict:
    """What happens to a workflow of a lost executor."""

    work: InFlight
    action: Action
    queue_name: str
    counted: bool
    crashes: int


def judge(
    work: Iterable[InFlight],
    *,
    died: bool,
    crash_limit: int,
    suspects_queue: str,
    trials_queue: str,
    leaf_queues: Collection[str],
    internal_queue: str = "_dbos_internal_queue",
) -> list[Verdict]:
    """Returns the verdict on every workflow of a lost executor, in the given order.

    ``died`` means that the process ended unexpectedly, or that its interpreter was blocked. After a handover,
    a pause or a network partition no workflow is to blame. ``leaf_queues`` are the queues whose workflows
    start no children: only these may become suspects and be put on trial. A workflow of another home queue (a
    parent) cannot be tried. It is parked by its count alone, and counted only if no suspect ran beside it,
    since a suspect is the likelier cause.
    """
    work = list(work)
    moved = (suspects_queue, trials_queue)
    did_not_run = [w for w in work if w.waits or (w.queue_name == trials_queue and not w.trial_started)]
    running = [w for w in work if w not in did_not_run]
    beside_suspects = any(w.queue_name in moved for w in running)
    verdicts = []
    for item in work:
        home = (item.home_queue if item.queue_name in moved else item.queue_name) or internal_queue
        can_be_tried = home in leaf_queues
        unchanged = Verdict(
            item, "requeue", home if item.waits else item.queue_name or home, False, item.crashes
        )
        if not died or item in did_not_run:
            verdicts.append(unchanged)
            continue
        if beside_suspects and not can_be_tried and item.queue_name not in moved:
            verdicts.append(unchanged)
            continue
        progressed = item.steps_recorded > item.steps_at_last_crash
        crashes = 1 if progressed else item.crashes + 1
        proven = not can_be_tried or (item.trial_started and len(running) == 1)
        # At the limit it is on trial, unless it left its trial because it was waiting.
        left_its_trial = item.queue_name not in moved
        if crashes >= crash_limit and (proven or (left_its_trial and crashes >= 2 * crash_limit)):
            verdicts.append(Verdict(item, "park", home, True, crashes))
        elif crashes >= crash_limit:
            counts = crashes if left_its_trial else item.crashes
            verdicts.append(Verdict(item, "try", trials_queue, left_its_trial, counts))
        elif can_be_tried and crashes == crash_limit - 1:
            verdicts.append(Verdict(item, "try", trials_queue, True, crashes))
        elif can_be_tried and crashes >= SUSPECT_FROM:
            verdicts.append(Verdict(item, "quarantine", suspects_queue, True, crashes))
        else:
            verdicts.append(Verdict(item, "requeue", home, True, crashes))
    return verdicts
