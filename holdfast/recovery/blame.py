"""Who is to blame when a process dies or hangs: which of its workflows count a crash, and what follows.

Only a process's death or hang counts, never an orderly hand over, and only without progress in between: a
workflow that recorded a step since its last crash starts counting again. One death does not tell who of
those that ran did it, so all are counted, and nobody is parked for that:

- from its second crash a workflow is a suspect and runs one at a time on a queue of its own, so that two
  suspects never meet in a process and one poison costs a healthy workflow at most two counts;
- the last run before the limit is a trial: alone in its process. Only a death in which nobody else ran
  parks. A death during a trial in company counts nothing for the one on trial, which is tried again, and
  so it is when its trial had not started: claimed, it waits until it is alone.

What only waits (sleeps, or for a message, an event, a child) does nothing that could end a process: it is
never counted, and goes to its home queue, since the suspects' one place and a trial belong to who runs.
Waiting beside branches of its own that run now and then (``asyncio.gather``), poison may leave its trial that
way again and again: its deaths at home count on, and twice the limit parks it.

So poison is parked at the limit, and what others did to a healthy workflow costs it at most a wait.
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
    """The queue it came from, where it was moved to the suspects' queue or the trials' before."""
    crashes: int
    steps_recorded: int
    steps_at_last_crash: int
    waits: bool
    """Whether it only waited."""
    trial_started: bool = False
    """Whether this claim is a trial and has started, alone in its process."""


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
    """Decides for every workflow of a lost executor, in the order given.

    ``died`` says that the process ended without a word, or that its interpreter was blocked; a hand over, a
    pause or a cut network blames nobody.
    ``leaf_queues`` names the queues whose workflows may be moved to the suspects and on trial. What has
    another home (a parent) cannot be tried: it is counted only where no suspect
    ran, which is likelier to blame, and parked by the count alone.
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
        stays = Verdict(item, "requeue", home if item.waits else item.queue_name or home, False, item.crashes)
        if not died or item in did_not_run:
            verdicts.append(stays)
            continue
        if beside_suspects and not can_be_tried and item.queue_name not in moved:
            verdicts.append(stays)
            continue
        progressed = item.steps_recorded > item.steps_at_last_crash
        crashes = 1 if progressed else item.crashes + 1
        proven = not can_be_tried or (item.trial_started and len(running) == 1)
        # At the limit it is on trial, save where it left its trial as waiting.
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
