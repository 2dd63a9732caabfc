"""Who is to blame when a process dies: which of its workflows count a crash, and what follows.

Only a process's death counts, never an orderly hand over, and only without progress in between:
a workflow that recorded a step since its last crash starts counting again. From its second crash a
workflow is a suspect and runs one at a time on a queue of its own; when a process dies that ran a
suspect, the suspect alone is counted, so that its healthy neighbours are never parked with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

Action = Literal["requeue", "quarantine", "park"]

SUSPECT_FROM = 2


@dataclass(frozen=True)
class InFlight:
    """A workflow that a lost executor had claimed."""

    workflow_id: str
    name: str
    queue_name: str | None
    home_queue: str | None
    """The queue it came from, where it was moved to the suspects' queue before."""
    crashes: int
    steps_recorded: int
    steps_at_last_crash: int
    waits_for_children: bool


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
    leaf_queues: Collection[str],
    internal_queue: str = "_dbos_internal_queue",
) -> list[Verdict]:
    """Decides for every workflow of a lost executor, in the order given.

    ``died`` says that the process ended without a word; a hang or a hand over blames nobody.
    ``leaf_queues`` names the queues whose workflows may be moved to ``suspects_queue``.
    """
    work = list(work)
    running = [w for w in work if not w.waits_for_children]
    suspects = [w for w in running if w.queue_name == suspects_queue]
    blamed = {w.workflow_id for w in (suspects or running)} if died else set()
    verdicts = []
    for item in work:
        home = item.home_queue if item.queue_name == suspects_queue else item.queue_name
        home = home or internal_queue
        if item.workflow_id not in blamed:
            verdicts.append(Verdict(item, "requeue", item.queue_name or home, False, item.crashes))
            continue
        progressed = item.steps_recorded > item.steps_at_last_crash
        crashes = 1 if progressed else item.crashes + 1
        if crashes >= crash_limit:
            verdicts.append(Verdict(item, "park", home, True, crashes))
        elif crashes >= SUSPECT_FROM and home in leaf_queues:
            verdicts.append(Verdict(item, "quarantine", suspects_queue, True, crashes))
        else:
            verdicts.append(Verdict(item, "requeue", home, True, crashes))
    return verdicts
