"""Poison through the database: counted, moved, parked, resumed, whatever its neighbours do."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import Any

import pytest

from holdfast.durable import registry
from tests.support import names
from tests.support.api_server import serving
from tests.support.database import Database
from tests.support.executors import Peer, claim, handovers, insert, record_steps, wait_for, workflow

LIMIT = 5
_numbers = itertools.count()


@pytest.fixture
def me(database: Database) -> Peer:
    return Peer.start(database, "worker-me")


def crash(
    me: Peer, *workflow_ids: str, held: bool = False, waiting: Collection[str] = (), **options: Any
) -> None:
    """An executor claims these and dies; its peer takes over. ``held``: no trial has started yet."""
    victim = Peer.start(me.database, f"worker-victim-{next(_numbers)}", **options)
    for workflow_id in workflow_ids:
        claim(me.database, victim.id, workflow_id)
        if state(me.database, workflow_id)[1] == names.WORKER_TRIALS_QUEUE and not held:
            me.database.run("start_trial", workflow_id=workflow_id, owner_xid=victim.id)
    wait_for(me.database, *waiting)
    victim.die()
    assert me.poll_twice() == [victim.id]


def pause(me: Peer, *workflow_ids: str) -> None:
    """An executor claims these and falls silent with its lock held; its peer takes over."""
    victim = Peer.start(me.database, f"worker-victim-{next(_numbers)}")
    for workflow_id in workflow_ids:
        claim(me.database, victim.id, workflow_id)
    victim.silent()
    assert me.round() == [victim.id]


def state(database: Database, workflow_id: str) -> tuple[str, str | None]:
    row = workflow(database, workflow_id)
    return row["status"], row["queue_name"]


def crashes(database: Database, workflow_id: str) -> int:
    rows = database.rows("SELECT crashes FROM ops.crashes WHERE workflow_id = %(id)s", id=workflow_id)
    return rows[0]["crashes"] if rows else 0


def test_five_crashes_park(database: Database, me: Peer) -> None:
    insert(database, ["poison"])
    seen = []
    for _ in range(LIMIT):
        crash(me, "poison")
        seen.append((*state(database, "poison"), crashes(database, "poison")))
    suspects = names.WORKER_SUSPECTS_QUEUE
    assert seen == [
        ("ENQUEUED", names.FIBONACCI_QUEUE, 1),
        ("ENQUEUED", suspects, 2),
        ("ENQUEUED", suspects, 3),
        ("ENQUEUED", names.WORKER_TRIALS_QUEUE, 4),
        ("MAX_RECOVERY_ATTEMPTS_EXCEEDED", None, 5),
    ]
    assert len(handovers(database, "poison")) == LIMIT
    parked = database.rows(
        "SELECT * FROM ops.crashes WHERE parked_at IS NOT NULL AND queue_name = 'fibonacci'"
    )
    assert [row["workflow_id"] for row in parked] == ["poison"]
    assert [v.action for v in me.takeovers[-1][1]] == ["park"]


def test_a_newer_sweeper_counts_and_parks_too(database: Database, me: Peer) -> None:
    """A rolling upgrade: the poison kills processes of the old version, those left are of the new."""
    insert(database, ["poison"], application_version="worker-0")
    for expected in range(1, LIMIT + 1):
        crash(me, "poison", version="worker-0")
        assert crashes(database, "poison") == expected
    assert state(database, "poison") == ("MAX_RECOVERY_ATTEMPTS_EXCEEDED", None)
    assert workflow(database, "poison")["application_version"] == "worker-0"


def test_neighbours_are_not_parked_with_it(database: Database, me: Peer) -> None:
    """The same 25 healthy workflows run beside it at every crash, and never make progress."""
    healthy = [f"healthy-{n}" for n in range(25)]
    insert(database, ["poison", *healthy])
    while (found := state(database, "poison"))[0] == "ENQUEUED":
        suspects = [w for w in healthy if state(database, w)[1] == names.WORKER_SUSPECTS_QUEUE]
        others = [w for w in healthy if w not in suspects]
        # The suspects' queue gives a process one workflow at a time, here the poison; a trial has no company.
        crash(me, "poison", *(others if found[1] != names.WORKER_TRIALS_QUEUE else ()))
    assert all(state(database, w)[0] == "ENQUEUED" for w in healthy)
    assert max(crashes(database, w) for w in healthy) == 2
    assert crashes(database, "poison") == LIMIT


def test_a_trial_in_company_parks_nobody(database: Database, me: Peer) -> None:
    """A fresh poison kills the process in which a healthy workflow makes its last run, again and again."""
    insert(database, ["healthy"])
    for _ in range(LIMIT - 1):
        crash(me, "healthy")
    for n in range(LIMIT):
        insert(database, [f"poison-{n}"])
        crash(me, "healthy", f"poison-{n}")
        assert state(database, "healthy") == ("ENQUEUED", names.WORKER_TRIALS_QUEUE)
        assert (crashes(database, "healthy"), crashes(database, f"poison-{n}")) == (LIMIT - 1, 1)
    assert database.rows("SELECT * FROM ops.crashes WHERE parked_at IS NOT NULL") == []
    # Its home is remembered through all of it.
    claim(database, me.id, "healthy")
    record_steps(database, "healthy", 1)
    database.rows("UPDATE dbos.workflow_status SET status = 'ENQUEUED' WHERE workflow_uuid = 'healthy'")
    crash(me, "healthy")
    assert (state(database, "healthy"), crashes(database, "healthy")) == (("ENQUEUED", "fibonacci"), 1)


def test_a_trial_that_never_started_parks_nobody(database: Database, me: Peer) -> None:
    """It was claimed and waited until it is alone, which it had been in an earlier claim."""
    insert(database, ["healthy"])
    for _ in range(LIMIT - 1):
        crash(me, "healthy")
    hung = Peer.start(database, "worker-hung")
    claim(database, hung.id, "healthy")
    database.run("start_trial", workflow_id="healthy", owner_xid=hung.id)
    hung.silent()
    assert me.round() == [hung.id]
    for _ in range(LIMIT):
        crash(me, "healthy", held=True)
        assert state(database, "healthy") == ("ENQUEUED", names.WORKER_TRIALS_QUEUE)
        assert crashes(database, "healthy") == LIMIT - 1
    crash(me, "healthy")
    assert state(database, "healthy")[0] == "MAX_RECOVERY_ATTEMPTS_EXCEEDED"


def test_a_parent_that_kills_beside_its_held_child_is_parked(database: Database, me: Peer) -> None:
    insert(database, ["batch"], name=names.FIBONACCI_BATCH, queue_name=names.FIBONACCI_BATCH_QUEUE)
    insert(database, ["batch-0"], parent_workflow_id="batch")
    for _ in range(LIMIT + 2):  # two are laid at the suspect's door
        crash(me, "batch", "batch-0", held=True)
    assert state(database, "batch")[0] == "MAX_RECOVERY_ATTEMPTS_EXCEEDED"
    assert state(database, "batch-0") == ("ENQUEUED", names.WORKER_TRIALS_QUEUE)


def test_a_parent_that_kills_during_its_childs_trial_parks_no_child(database: Database, me: Peer) -> None:
    """The trial has company then, whatever is known of the parent's children."""
    insert(database, ["batch"], name=names.FIBONACCI_BATCH, queue_name=names.FIBONACCI_BATCH_QUEUE)
    insert(database, ["batch-0"], parent_workflow_id="batch")
    for _ in range(2 * LIMIT):
        if state(database, "batch")[0] == "ENQUEUED":
            crash(me, "batch", "batch-0")
    assert state(database, "batch-0")[0] == "ENQUEUED", "parked in its parent's place"


def test_who_only_waits_is_never_suspected(database: Database, me: Peer) -> None:
    insert(database, ["nap"])
    for _ in range(2 * LIMIT):
        crash(me, "nap", waiting={"nap"})
    assert state(database, "nap") == ("ENQUEUED", names.FIBONACCI_QUEUE)
    assert crashes(database, "nap") == 0
    assert workflow(database, "nap")["recovery_attempts"] == 1, "DBOS's own count must not park it either"


def test_who_waited_is_taken_to_wait_again_until_it_does_something_else(database: Database, me: Peer) -> None:
    """Poison that kills at once, wherever it is claimed, meets what has not come to its wait again."""
    insert(database, ["nap", "steps", "falls"])
    crash(me, "nap", "steps", "falls", waiting={"nap", "steps", "falls"})
    for _ in range(LIMIT - 1):
        crash(me, "nap", "falls")
    assert (crashes(database, "nap"), crashes(database, "falls")) == (0, 0)
    crash(me, "nap", waiting={"nap"})
    for _ in range(LIMIT):
        crash(me, "nap")
    assert crashes(database, "nap") == 0, "it came to its wait in between"
    crash(me, "falls")
    crash(me, "falls")
    assert crashes(database, "falls") == 1, "it never comes to its wait"
    victim = Peer.start(database, "worker-steps")
    claim(database, victim.id, "steps")
    database.run("withdraw_wait", workflow_id="steps", owner_xid=victim.id)
    victim.die()
    assert me.poll_twice() == [victim.id]
    assert crashes(database, "steps") == 1, "a step had begun"


def test_a_healthy_suspect_that_finishes_is_cleared(database: Database, me: Peer) -> None:
    insert(database, ["healthy"])
    crash(me, "healthy")
    crash(me, "healthy")
    claim(database, me.id, "healthy")
    record_steps(database, "healthy", 1)
    crash_count = crashes(database, "healthy")
    database.rows("UPDATE dbos.workflow_status SET status = 'ENQUEUED' WHERE workflow_uuid = 'healthy'")
    crash(me, "healthy")
    assert (crash_count, crashes(database, "healthy")) == (2, 1), "progress starts the count again"
    assert state(database, "healthy") == ("ENQUEUED", names.FIBONACCI_QUEUE), "and it goes home"


def test_pauses_and_orphans_count_nothing(database: Database, me: Peer) -> None:
    insert(database, ["w"])
    for _ in range(LIMIT + 1):
        pause(me, "w")
    for _ in range(LIMIT + 1):
        claim(database, "worker-nobody", "w")
        me.clock.move(3)
        me.round()
    assert state(database, "w") == ("ENQUEUED", names.FIBONACCI_QUEUE)
    assert crashes(database, "w") == 0
    assert workflow(database, "w")["recovery_attempts"] > 2 * LIMIT, "DBOS's own count would have parked it"


def test_pauses_between_crashes_do_not_clear(database: Database, me: Peer) -> None:
    insert(database, ["poison"])
    for _ in range(LIMIT):
        pause(me, "poison")
        crash(me, "poison")
    assert state(database, "poison")[0] == "MAX_RECOVERY_ATTEMPTS_EXCEEDED"


def test_several_deaths_at_once_count_when_the_heartbeats_are_old(database: Database, me: Peer) -> None:
    """A host with two workers goes down: the first poll cannot show it, but they died."""
    victims = [Peer.start(database, f"worker-host-{n}") for n in range(2)]
    for victim in victims:
        victim.runs(f"w-{victim.id}")
    for victim in victims:
        victim.die()
    assert me.poll_twice() == []
    for victim in victims:
        victim.silent()
    assert sorted(me.round()) == sorted(v.id for v in victims)
    assert {v.row["reason"] for v in victims} == {"lock lost"}


def test_a_parent_whose_children_kill_is_never_counted(database: Database, me: Peer) -> None:
    insert(database, ["batch"], name=names.FIBONACCI_BATCH, queue_name=names.FIBONACCI_BATCH_QUEUE)
    insert(database, ["batch-0"], parent_workflow_id="batch")
    for _ in range(LIMIT):
        crash(me, "batch", "batch-0", waiting={"batch"})
    assert state(database, "batch") == ("ENQUEUED", names.FIBONACCI_BATCH_QUEUE)
    assert crashes(database, "batch") == 0
    assert state(database, "batch-0")[0] == "MAX_RECOVERY_ATTEMPTS_EXCEEDED"


def test_what_has_children_is_never_moved_to_the_suspects(database: Database, me: Peer) -> None:
    insert(database, ["batch"], name=names.FIBONACCI_BATCH, queue_name=names.FIBONACCI_BATCH_QUEUE)
    for _ in range(LIMIT - 1):
        crash(me, "batch")
        assert state(database, "batch") == ("ENQUEUED", names.FIBONACCI_BATCH_QUEUE)
    crash(me, "batch")
    assert state(database, "batch")[0] == "MAX_RECOVERY_ATTEMPTS_EXCEEDED"


def test_every_queue_of_the_worker_is_a_leaf_or_a_parents_queue() -> None:
    """A new queue has to be thought about: may its workflows wait for children?"""
    parents = {
        names.USERS_QUEUE,
        names.NESTED_ROOT_QUEUE,
        names.NESTED_CHILD_QUEUE,
        names.FIBONACCI_BATCH_QUEUE,
        names.BUCKET_LISTINGS_QUEUE,
    }
    assert {
        names.QUEUE_OF[name]
        for name in names.QUEUE_OF
        if registry.is_builtin(registry.declared_by_name(name))
    } == names.LEAF_QUEUES | parents
    assert not names.LEAF_QUEUES & parents


def test_resumed_by_an_operator_it_gets_a_fresh_count(database: Database, me: Peer) -> None:
    insert(database, ["poison"])
    for _ in range(LIMIT):
        crash(me, "poison")
    with serving(database.settings("api")) as api:
        assert api.http.post("/workflows/poison/resume").status_code == 202
    assert state(database, "poison") == ("ENQUEUED", names.FIBONACCI_QUEUE)
    for expected in range(1, LIMIT):
        crash(me, "poison")
        assert crashes(database, "poison") == expected
        assert state(database, "poison")[0] == "ENQUEUED"
    crash(me, "poison")
    assert state(database, "poison")[0] == "MAX_RECOVERY_ATTEMPTS_EXCEEDED"


def test_parked_work_is_counted_for_the_metrics(database: Database, me: Peer) -> None:
    insert(database, ["poison"])
    for _ in range(LIMIT):
        crash(me, "poison")
    rows: list[dict[str, Any]] = database.run("unfinished_by_status")
    assert [(r["status"], r["workflows"]) for r in rows] == [("MAX_RECOVERY_ATTEMPTS_EXCEEDED", 1)]


@pytest.mark.parametrize("queues", ["suspects_queue = '', leaf_queues = '{}'", "leaf_queues = '{*}'"])
def test_an_attached_application_separates_what_it_cannot_try(
    database: Database, me: Peer, queues: str
) -> None:
    """Its process runs some queues only, or executors share the queue's limit."""
    database.rows("INSERT INTO dbos.queues (name, concurrency) VALUES ('packing', 2)")
    insert(database, ["healthy", "poison"], queue_name="packing")

    def die_with(*workflow_ids: str) -> None:
        victim = Peer.start(database, f"worker-victim-{next(_numbers)}")
        database.rows(f"UPDATE ops.executors SET {queues} WHERE executor_id = %(id)s", id=victim.id)
        for workflow_id in workflow_ids:
            claim(database, victim.id, workflow_id)
        victim.die()
        assert me.poll_twice() == [victim.id]

    die_with("healthy", "poison")
    assert {state(database, each) for each in ("healthy", "poison")} == {("ENQUEUED", "packing")}
    die_with("healthy", "poison")
    assert state(database, "healthy") == ("DELAYED", "packing")
    for _ in range(LIMIT - 3):
        assert state(database, "poison") == ("ENQUEUED", "packing")
        die_with("poison")
    assert crashes(database, "poison") == LIMIT - 1
    die_with("poison")
    assert state(database, "poison") == ("MAX_RECOVERY_ATTEMPTS_EXCEEDED", None)
    assert crashes(database, "healthy") == 2
