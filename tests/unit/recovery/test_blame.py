"""The verdict on poison: who is blamed for a death, and what follows."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.recovery.blame import EVERY_QUEUE, InFlight, Verdict, judge, separation_seconds

LIMIT = 5
SUSPECTS = "worker-suspects"
TRIALS = "worker-trials"
LEAF = "fibonacci"
PARENTS = "batches"


def flight(workflow_id: str = "w", **fields: Any) -> InFlight:
    values = {
        "name": "n",
        "queue_name": LEAF,
        "home_queue": None,
        "crashes": 0,
        "steps_recorded": 0,
        "steps_at_last_crash": 0,
        "waits": False,
        "trial_started": fields.get("queue_name") == TRIALS,
        **fields,
    }
    return InFlight(workflow_id=workflow_id, **values)


def verdicts(*work: InFlight, died: bool = True) -> list[Verdict]:
    return judge(
        work,
        died=died,
        crash_limit=LIMIT,
        suspects_queue=SUSPECTS,
        trials_queue=TRIALS,
        leaf_queues={LEAF},
    )


def verdict(work: InFlight, died: bool = True) -> tuple[str, str, bool, int]:
    (found,) = verdicts(work, died=died)
    return found.action, found.queue_name, found.counted, found.crashes


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (0, ("requeue", LEAF, True, 1)),
        (1, ("quarantine", SUSPECTS, True, 2)),
        (2, ("quarantine", SUSPECTS, True, 3)),
        (3, ("try", TRIALS, True, 4)),
        (4, ("park", LEAF, True, 5)),
        (9, ("park", LEAF, True, 10)),
    ],
)
def test_crash_by_crash(before: int, expected: tuple[str, str, bool, int]) -> None:
    queue = TRIALS if before >= LIMIT - 1 else SUSPECTS if before >= 2 else LEAF
    home = None if queue == LEAF else LEAF
    assert verdict(flight(queue_name=queue, home_queue=home, crashes=before)) == expected


def after(found: Verdict) -> InFlight:
    """The workflow at its next claim; what it came from is remembered where it was counted."""
    home = LEAF if found.queue_name in (SUSPECTS, TRIALS) else None
    return flight(found.work.workflow_id, queue_name=found.queue_name, home_queue=home, crashes=found.crashes)


@pytest.mark.parametrize("crashes", [0, 1, 4, 20])
def test_nothing_counts_when_nobody_died(crashes: int) -> None:
    """A hang, a hand over, an orphan: back to where it was, whatever it did before."""
    assert verdict(flight(crashes=crashes), died=False) == ("requeue", LEAF, False, crashes)
    for queue in (SUSPECTS, TRIALS):
        moved = flight(queue_name=queue, home_queue=LEAF, crashes=crashes)
        assert verdict(moved, died=False) == ("requeue", queue, False, crashes)


def test_progress_starts_the_count_again() -> None:
    trial = {"queue_name": TRIALS, "home_queue": LEAF, "crashes": 4, "steps_at_last_crash": 2}
    assert verdict(flight(**trial, steps_recorded=3)) == ("requeue", LEAF, True, 1)
    assert verdict(flight(**trial, steps_recorded=2))[0] == "park"
    cleared = flight(queue_name=SUSPECTS, home_queue=LEAF, crashes=3, steps_recorded=1)
    assert verdict(cleared) == ("requeue", LEAF, True, 1)


def test_everyone_who_ran_is_counted_and_nobody_parked_in_company() -> None:
    """One death does not tell a suspect near its end from fresh poison beside it."""
    trial = flight("trial", queue_name=TRIALS, home_queue=LEAF, crashes=4)
    fresh, suspect = flight("fresh"), flight("suspect", queue_name=SUSPECTS, home_queue=LEAF, crashes=3)
    assert [(v.action, v.queue_name, v.counted, v.crashes) for v in verdicts(trial, fresh, suspect)] == [
        ("try", TRIALS, False, 4),
        ("requeue", LEAF, True, 1),
        ("try", TRIALS, True, 4),
    ]


def test_who_waits_is_no_company() -> None:
    trial = flight("trial", queue_name=TRIALS, home_queue=LEAF, crashes=4)
    waiting = flight("parent", queue_name=PARENTS, waits=True)
    assert [v.action for v in verdicts(waiting, trial)] == ["requeue", "park"]


def test_only_a_trial_that_has_started_is_proof() -> None:
    """Claimed, it waits until it is alone: whatever killed the process meanwhile, it was not this one."""
    held = flight("held", queue_name=TRIALS, home_queue=LEAF, crashes=4, trial_started=False)
    assert verdict(held) == ("requeue", TRIALS, False, 4)
    assert [(v.action, v.crashes) for v in verdicts(held, flight("fresh"))] == [
        ("requeue", 4),
        ("requeue", 1),
    ]
    assert verdict(flight(crashes=4)) == ("try", TRIALS, True, 5), "alone by chance is not alone by proof"
    assert verdict(flight(queue_name=SUSPECTS, home_queue=LEAF, crashes=4))[0] == "try"


def test_a_parent_that_runs_is_counted_whatever_its_children_do() -> None:
    """It enqueued the child, and then a step of its own ends the process. Its child is not tried for it."""
    held = flight("child", queue_name=TRIALS, home_queue=LEAF, crashes=4, trial_started=False)
    for crashes in range(LIMIT):
        parent = flight("parent", queue_name=PARENTS, crashes=crashes)
        found = [(v.action, v.counted, v.crashes) for v in verdicts(parent, held)]
        action = "park" if crashes == LIMIT - 1 else "requeue"
        assert found == [(action, True, crashes + 1), ("requeue", False, 4)]
    # And a trial in its company is none.
    started = flight("child", queue_name=TRIALS, home_queue=LEAF, crashes=4)
    assert [v.action for v in verdicts(flight("parent", queue_name=PARENTS), started)] == ["requeue", "try"]


def test_a_parent_beside_a_suspect_is_not_counted() -> None:
    """It cannot be tried, so its count alone parks it: less may be laid at its door."""
    parent = flight("parent", queue_name=PARENTS, crashes=4)
    for queue in (SUSPECTS, TRIALS):
        suspect = flight("suspect", queue_name=queue, home_queue=LEAF, crashes=2)
        found = {v.work.workflow_id: (v.action, v.counted) for v in verdicts(suspect, parent)}
        assert found == {"suspect": ("quarantine", True), "parent": ("requeue", False)}


@pytest.mark.parametrize("queue", [LEAF, PARENTS, SUSPECTS, TRIALS, None])
def test_who_only_waits_is_never_blamed_and_goes_home(queue: str | None) -> None:
    waiting = flight("waits", queue_name=queue, home_queue=LEAF, waits=True, crashes=4)
    home = {None: "_dbos_internal_queue", PARENTS: PARENTS}.get(queue, LEAF)
    for died in (True, False):
        assert verdict(waiting, died=died) == ("requeue", home, False, 4)
    found = {v.work.workflow_id: v.counted for v in verdicts(waiting, flight("leaf"))}
    assert found == {"waits": False, "leaf": True}


def test_poison_that_leaves_its_trial_as_waiting_is_parked_at_twice_the_limit() -> None:
    """It waits in one branch and kills in another, now and then: alone in its process it never dies."""
    crashes, runs = 4, 0
    while True:
        runs += 1
        (trial,) = verdicts(flight(queue_name=TRIALS, home_queue=LEAF, crashes=crashes, waits=True))
        assert (trial.action, trial.queue_name, trial.crashes) == ("requeue", LEAF, crashes)
        (found,) = verdicts(flight(queue_name=LEAF, home_queue=LEAF, crashes=crashes))
        crashes = found.crashes
        if found.action == "park":
            break
        assert (found.action, found.queue_name) == ("try", TRIALS)
    assert (crashes, runs) == (2 * LIMIT, 6)


def test_only_leaf_queues_move_to_the_suspects() -> None:
    """A parent that held the suspects' one place would wait for ever for a child that is a suspect too."""
    assert verdict(flight(queue_name=PARENTS, crashes=3)) == ("requeue", PARENTS, True, 4)
    assert verdict(flight(queue_name=PARENTS, crashes=4))[0] == "park"


def test_a_direct_start_goes_to_the_internal_queue() -> None:
    assert verdict(flight(queue_name=None, crashes=1)) == ("requeue", "_dbos_internal_queue", True, 2)
    assert verdict(flight(queue_name=None), died=False)[1] == "_dbos_internal_queue"
    lost_home = flight(queue_name=SUSPECTS, home_queue=None, crashes=2)
    assert verdict(lost_home)[:2] == ("requeue", "_dbos_internal_queue")


@given(
    st.lists(
        st.builds(
            flight,
            st.uuids().map(str),
            queue_name=st.sampled_from([LEAF, PARENTS, SUSPECTS, TRIALS, None]),
            home_queue=st.sampled_from([LEAF, None]),
            crashes=st.integers(0, 7),
            steps_recorded=st.integers(0, 3),
            steps_at_last_crash=st.integers(0, 3),
            waits=st.booleans(),
            trial_started=st.booleans(),
        ),
        max_size=8,
    ),
    st.booleans(),
)
def test_properties_of_every_verdict(work: list[InFlight], died: bool) -> None:
    found = verdicts(*work, died=died)
    assert [v.work for v in found] == work, "every workflow gets one verdict, in the order given"
    held = [w for w in work if w.queue_name == TRIALS and not w.trial_started]
    running = [w for w in work if not w.waits and w not in held]
    for v in found:
        assert v.queue_name, "released work has a queue"
        assert v.counted or v.action in ("requeue", "try")
        assert not (v.counted and v.work not in running)
        assert not (not died and (v.counted or v.action != "requeue"))
        assert v.counted is False or v.crashes in (1, v.work.crashes + 1)
        assert v.counted or v.crashes == v.work.crashes
        assert v.action != "park" or (v.counted and v.crashes >= LIMIT)
        assert (v.action == "park") == (v.counted and v.crashes >= LIMIT) or v.action == "try"
        home = v.work.home_queue if v.work.queue_name in (SUSPECTS, TRIALS) else v.work.queue_name
        if v.action == "park" and home == LEAF and not (v.work.queue_name == LEAF and v.crashes >= 2 * LIMIT):
            assert running == [v.work], "parked for what a neighbour may have done"
            assert v.work.trial_started
        if v.action in ("quarantine", "try"):
            assert v.queue_name == {"quarantine": SUSPECTS, "try": TRIALS}[v.action]
            assert home == LEAF


class _Cluster:
    """Two workers' claims, crash by crash: poison kills whatever process runs it; healthy work never ends
    and never records a step, the worst case."""

    def __init__(self, seed: int, poisons: int, healthy: int) -> None:
        self.random = random.Random(seed)
        self.work = {f"healthy-{n}": flight(f"healthy-{n}") for n in range(healthy)}
        self.parked: set[str] = set()
        self.crashes: Counter[str] = Counter()
        for n in range(poisons):
            self.add(f"poison-{n}")

    def add(self, workflow_id: str) -> None:
        self.work[workflow_id] = flight(workflow_id)

    def crash(self) -> None:
        """Claims everything at random as two workers do, then each process with poison dies once."""
        on = {queue: [w for w in self.work.values() if w.queue_name == queue] for queue in (SUSPECTS, TRIALS)}
        for some in on.values():
            self.random.shuffle(some)
        # A process on trial runs nothing else; what it would have claimed waits.
        processes: list[list[InFlight]] = []
        for n in range(2):
            trial = on[TRIALS][n : n + 1]
            processes.append(trial if trial and self.random.random() < 0.5 else on[SUSPECTS][n : n + 1])
        others = [p for p in processes if not p or p[0].queue_name != TRIALS]
        for item in self.work.values():
            if item.queue_name == LEAF and others:
                self.random.choice(others).append(item)
        for process in processes:
            killers = [w.workflow_id for w in process if w.workflow_id.startswith("poison")]
            if not killers:
                continue
            self.crashes.update(killers)
            for v in verdicts(*process):
                if v.action == "park":
                    self.parked.add(v.work.workflow_id)
                    del self.work[v.work.workflow_id]
                else:
                    self.work[v.work.workflow_id] = after(v)

    def until_parked(self, *poisons: str) -> None:
        for _ in range(2000):
            if not self.work.keys() & set(poisons):
                return
            self.crash()
        pytest.fail(f"never parked: {self.work.keys() & set(poisons)}")


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(0, 25), st.booleans())
def test_every_poison_is_parked_at_the_limit_and_nothing_else(
    seed: int, poisons: int, healthy: int, together: bool
) -> None:
    """All at once, or each beside healthy suspects of the one before, which may still run."""
    names = [f"poison-{n}" for n in range(poisons)]
    cluster = _Cluster(seed, min(poisons, 4) if together else 0, healthy)
    for name in [] if together else names:
        cluster.add(name)
        cluster.until_parked(name)
    cluster.until_parked(*names)
    assert cluster.parked == {*names[: 4 if together else None]}
    assert set(cluster.crashes.values()) == {LIMIT}, "a sixth run, or fewer than five"
    if poisons == 1:
        assert max((w.crashes for w in cluster.work.values()), default=0) <= 2, "one poison costs at most two"


# --- attached applications --------------------------------------------------------------------------


def attached(*work: InFlight, isolates: bool = False) -> list[Verdict]:
    queues = (SUSPECTS, TRIALS, {EVERY_QUEUE}) if isolates else ("", "", set[str]())
    return judge(
        work,
        died=True,
        crash_limit=LIMIT,
        suspects_queue=queues[0],
        trials_queue=queues[1],
        leaf_queues=queues[2],
    )


@pytest.mark.parametrize("isolates", [False, True])
@pytest.mark.parametrize("reason", ["deduplicated", "limited"])
def test_who_cannot_be_tried_is_parked_alone_or_at_twice_the_limit(isolates: bool, reason: str) -> None:
    kept = {reason: True}
    for crashes in range(2 * LIMIT - 1):
        (alone,) = attached(flight(crashes=crashes, **kept), isolates=isolates)
        expected = "park" if crashes >= LIMIT - 1 else "requeue"
        assert (alone.action, alone.queue_name, alone.waits_its_turn) == (expected, LEAF, False)
        together = attached(
            flight("a", crashes=crashes, **kept), flight("b", crashes=crashes, **kept), isolates=isolates
        )
        assert {(v.action, v.queue_name, v.crashes) for v in together} == {("requeue", LEAF, crashes + 1)}
        assert sum(v.waits_its_turn for v in together) == (crashes + 1 >= 2)
    last = attached(flight("a", crashes=2 * LIMIT - 1, **kept), flight("b"), isolates=isolates)
    assert [v.action for v in last] == ["park", "requeue"]


def test_a_limited_queue_of_the_stack_is_counted_elsewhere() -> None:
    assert verdict(flight(crashes=1, limited=True)) == ("quarantine", SUSPECTS, True, 2)


def test_a_process_of_some_queues_separates_without_any_flag() -> None:
    assert [v.action for v in attached(flight("a", crashes=4), flight("b", crashes=4))] == ["requeue"] * 2


@pytest.mark.parametrize("healthy_count", [1, 2, 5, 12])
@pytest.mark.parametrize("poison_at", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("step_seconds", [3.0, 20.0])
def test_poison_is_parked_and_its_company_is_not(
    healthy_count: int, poison_at: float, step_seconds: float
) -> None:
    """Poison ends its process a second after its start. Healthy work records a step after a while."""
    position = round(poison_at * healthy_count)
    names = [f"healthy{number}" for number in range(healthy_count)]
    names.insert(position, "poison")
    crashes = dict.fromkeys(names, 0)
    starts = dict.fromkeys(names, 0.0)
    now = 0.0
    for _ in range(50):
        # Poison starts when its turn comes. Healthy work that had time for a step until then has recorded it.
        now = max(now, starts["poison"]) + 1.0
        ran = [name for name in names if starts[name] < now]
        progressed = {name for name in ran if name != "poison" and now - starts[name] >= step_seconds}
        found = attached(
            *(flight(name, crashes=crashes[name], steps_recorded=int(name in progressed)) for name in ran)
        )
        parked = [v.work.workflow_id for v in found if v.action == "park"]
        if parked:
            assert parked == ["poison"]
            return
        for v in found:
            crashes[v.work.workflow_id] = v.crashes
            turn = separation_seconds(v.crashes, 5.0) if v.waits_its_turn else 0.0
            starts[v.work.workflow_id] = now + turn
    raise AssertionError("poison was never parked")
