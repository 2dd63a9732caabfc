"""Decides which workflows are to blame when a process dies or hangs, and what happens to them.

This module only decides: `_RULES` is its decision table. `takeover` writes the decisions, `parking` parks,
and `trials` runs the trials.

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

Some workflows of attached applications cannot be tried (`_Case.separates`). Each death divides those that ran
together: one half waits for a while, in turn the older and the younger one, so that poison soon runs without
the others. At the limit one is parked if it was alone when its process died, otherwise at twice the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

Action = Literal["requeue", "quarantine", "try", "park"]

SUSPECT_FROM = 2

_LONGEST_SEPARATION_SECONDS = 300.0

EVERY_QUEUE = "*"
"""As a leaf queue: any workflow may be tried. One that waits for its child leaves its trial meanwhile."""


@dataclass(frozen=True)
class InFlight:
    """A workflow that a lost executor had claimed."""

    workflow_id: str
    name: str | None
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
    deduplicated: bool = False
    """Whether it has a deduplication id, which counts on its own queue only: it stays there."""
    limited: bool = False
    """Whether executors share a limit of its home queue. If attached, they count it on that queue only."""


@dataclass(frozen=True)
class Verdict:
    """What happens to a workflow of a lost executor."""

    work: InFlight
    action: Action
    queue_name: str
    counted: bool
    crashes: int
    waits_its_turn: bool = False
    """Whether it is claimed again only after others that ran beside it: `separation_seconds`."""


@dataclass(frozen=True)
class _Case:
    """What the rules need to know about one workflow of a lost executor."""

    died: bool
    """Whether the process died or hung. False after a handover, a pause or a network partition."""
    ran: bool
    """Whether it may have caused the death: it neither only waited, nor waited for its trial to start."""
    beside_suspects: bool
    """Whether a suspect or a trial ran in the same process."""
    moved: bool
    """Whether it was claimed from the queue of suspects or of trials."""
    can_be_tried: bool
    """Whether it starts no children, so that it can become a suspect and be put on trial."""
    tried_alone: bool
    """Whether its trial had started and nothing else ran in the process."""
    alone: bool
    """Whether nothing else ran in the process."""
    separates: bool
    """Whether it cannot be tried and its application is attached."""
    crashes: int
    """Its crashes, this one included."""
    limit: int


class _Rule(NamedTuple):
    applies: Callable[[_Case], bool]
    action: Action
    counted: bool


# The first rule that applies decides. "requeue" without a count leaves the workflow where it was. "requeue"
# with a count returns it to its home queue.
_RULES = (
    # No process died, or this workflow did not run when it died.
    _Rule(lambda case: not case.died or not case.ran, "requeue", counted=False),
    # A parent cannot be tried, so its count alone would park it. The suspect beside it is the likelier cause.
    _Rule(
        lambda case: case.beside_suspects and not case.can_be_tried and not case.moved,
        "requeue",
        counted=False,
    ),
    # At the limit it is parked if its guilt is proven by a trial, or if it cannot be tried.
    _Rule(
        lambda case: (
            case.crashes >= case.limit
            and (case.tried_alone or (not case.can_be_tried and (case.alone or not case.separates)))
        ),
        "park",
        counted=True,
    ),
    # It left its trial again and again because it was waiting, or it was never alone.
    _Rule(lambda case: case.crashes >= 2 * case.limit and not case.moved, "park", counted=True),
    _Rule(lambda case: case.separates, "requeue", counted=True),
    # It died on trial, or as a suspect at the limit, but not alone: no proof, so it is tried again.
    _Rule(lambda case: case.crashes >= case.limit and case.moved, "try", counted=False),
    # At the limit outside of the queue of trials: it left its trial because it was waiting.
    _Rule(lambda case: case.crashes >= case.limit, "try", counted=True),
    # The last run before the limit is its trial.
    _Rule(lambda case: case.can_be_tried and case.crashes == case.limit - 1, "try", counted=True),
    _Rule(lambda case: case.can_be_tried and case.crashes >= SUSPECT_FROM, "quarantine", counted=True),
    _Rule(lambda _: True, "requeue", counted=True),
)


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
    since a suspect is the likelier cause. An attached application has every queue as a leaf queue, or no
    queue of suspects.
    """
    work = list(work)
    moved_queues = (suspects_queue, trials_queue)
    attached = EVERY_QUEUE in leaf_queues or not suspects_queue
    running = [w for w in work if not w.waits and (w.queue_name != trials_queue or w.trial_started)]
    beside_suspects = any(w.queue_name in moved_queues for w in running)
    verdicts = []
    for item in work:
        moved = item.queue_name in moved_queues
        home = (item.home_queue if moved else item.queue_name) or internal_queue
        progressed = item.steps_recorded > item.steps_at_last_crash
        stays = item.deduplicated or (attached and item.limited)
        can_be_tried = not stays and (home in leaf_queues or EVERY_QUEUE in leaf_queues)
        case = _Case(
            died=died,
            ran=item in running,
            beside_suspects=beside_suspects,
            moved=moved,
            can_be_tried=can_be_tried,
            tried_alone=item.trial_started and len(running) == 1,
            alone=len(running) == 1,
            separates=attached and not can_be_tried,
            crashes=1 if progressed else item.crashes + 1,
            limit=crash_limit,
        )
        rule = next(rule for rule in _RULES if rule.applies(case))
        queue_name = {"quarantine": suspects_queue, "try": trials_queue}.get(rule.action, home)
        if rule.action == "requeue" and not rule.counted and not item.waits:
            queue_name = item.queue_name or home
        crashes = case.crashes if rule.counted else item.crashes
        verdicts.append(Verdict(item, rule.action, queue_name, rule.counted, crashes))
    return _separated(verdicts) if attached else verdicts


def separation_seconds(crashes: int, lease_seconds: float) -> float:
    """Returns how long a workflow waits for those that ran beside it: longer after each crash."""
    return float(min(lease_seconds * 2 ** (crashes - 1), _LONGEST_SEPARATION_SECONDS))


def _separated(verdicts: list[Verdict]) -> list[Verdict]:
    """Makes one half of the requeued suspects wait, in turn the older and the younger half."""
    suspects = [v for v in verdicts if v.action == "requeue" and v.counted and v.crashes >= SUSPECT_FROM]
    older, younger = suspects[: len(suspects) // 2], suspects[len(suspects) // 2 :]
    if not older:
        return verdicts
    later = younger if max(v.crashes for v in suspects) % 2 else older
    return [replace(v, waits_its_turn=True) if v in later else v for v in verdicts]
