"""Containers are killed, paused, restarted, scaled and cut from the network in the middle of work."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.support import faults, scenes
from tests.support.compose_stack import ComposeStack
from tests.support.reporting import record
from tests.support.stack import running_stack, wait_for

pytestmark = [pytest.mark.container, pytest.mark.timeout(600)]

DRAIN_SECONDS = 1.0
SHORT, LONG = 35, 37


@pytest.fixture(scope="module")
def stack(image: str) -> Iterator[ComposeStack]:
    """One project for the module, with large n and a short drain."""
    started = ComposeStack(
        image,
        HOLDFAST_FIBONACCI_MAX_N="40",
        HOLDFAST_DRAIN_SECONDS=str(DRAIN_SECONDS),
        HOLDFAST_STOP_GRACE_SECONDS="10",
    )
    with running_stack(started):
        yield started


def test_api_crashes_inside_a_class_scope(stack: ComposeStack) -> None:
    scenes.check_scope_across_a_crash(stack, "/scope/class", steps=20, step_seconds=0.25)


def test_api_is_restarted_inside_a_class_scope(stack: ComposeStack) -> None:
    """`docker compose restart api`: the running step ends, the next incarnation goes on."""
    before = stack.api()
    accepted = stack.post("/scope/class", {"steps": 30, "step_seconds": 0.2})["workflow_id"]
    wait_for(lambda: len(stack.get(f"/workflows/{accepted}/steps")["steps"]) >= 5, 20, "five steps")
    stack.compose("restart", "api")
    after = stack.api()
    report = stack.finished(accepted, 40)["output"]
    assert report["counters"]["durable"] == 30
    assert list(report["executors"]) == [before.executor_id, after.executor_id]
    assert report["replayed_steps"] == report["executors"][before.executor_id]
    assert stack.exited(before, 5).code == 0
    assert stack.executors()[before.executor_id]["state"] == "drained"


def test_shutdown_is_followed_by_a_new_incarnation(stack: ComposeStack) -> None:
    before = stack.api()
    stack.post("/shutdown")
    after = wait_for(
        lambda: (m := stack.api()).executor_id != before.executor_id and m, 30, "a new incarnation"
    )
    assert after.container == before.container
    assert stack.exited(before, 5).code == 0


def test_docker_kill_of_a_worker_in_the_middle_of_a_batch(stack: ComposeStack) -> None:
    """`docker kill` counts as a manual stop: nothing brings it back, the peer finishes alone."""
    batch_id, victim, peer = faults.start_and_find(stack, [SHORT] * 4)
    stack.kill(victim)
    try:
        record("docker kill to declared dead, seconds", faults.time_until_taken_over(stack, victim, 10))
        batch = stack.finished_batch(batch_id, 120)
        scenes.check_batch(batch, [SHORT] * 4)
        faults.check_effects(stack, batch)
        assert stack.inspect(victim.container)["State"]["Status"] == "exited"
        assert {row["executor_id"] for row in batch["results"]} <= {victim.executor_id, peer.executor_id}
        assert stack.executors()[victim.executor_id]["taken_over_by"] == peer.executor_id
    finally:
        stack.start_again(victim)


def test_crash_of_a_worker(stack: ComposeStack) -> None:
    faults.check_kill(stack, SHORT)


def test_sigterm_of_a_worker_in_a_long_step(stack: ComposeStack) -> None:
    faults.check_stop_in_a_step(stack, LONG, drain_seconds=DRAIN_SECONDS)


def test_compose_restart_of_the_workers(stack: ComposeStack) -> None:
    """Both at once, in the middle of a batch."""
    before = stack.workers()
    batch_id, _, _ = faults.start_and_find(stack, [SHORT] * 4)
    stack.compose("restart", "worker")
    assert [stack.exited(member, 5).code for member in before] == [0, 0]
    batch = stack.finished_batch(batch_id, 120)
    scenes.check_batch(batch, [SHORT] * 4)
    faults.check_effects(stack, batch)


def test_docker_pause_beyond_the_lease(stack: ComposeStack) -> None:
    faults.check_pause(stack, SHORT)


def test_network_cut(stack: ComposeStack) -> None:
    """A worker without its network is taken over within the lease, and comes back as another."""
    batch_id, victim, peer = faults.start_and_find(stack, [SHORT] * 4)
    network = f"{stack.project}_database"
    cut_at = time.monotonic()
    stack.docker("network", "disconnect", network, victim.container)
    try:
        faults.time_until_taken_over(stack, victim, 10)
        record("network cut to declared dead, seconds", time.monotonic() - cut_at)
    finally:
        stack.docker("network", "connect", network, victim.container)
    assert stack.exited(victim, 30).code == 75
    batch = stack.finished_batch(batch_id, 120)
    scenes.check_batch(batch, [SHORT] * 4)
    faults.check_effects(stack, batch)
    assert stack.executors()[victim.executor_id]["taken_over_by"] == peer.executor_id
    stack.workers()


def test_scale_to_three(stack: ComposeStack) -> None:
    """`--scale worker=3`: the third works too; scaled down again, its work is handed over."""
    stack.compose("up", "--detach", "--wait", "--no-build", "--no-recreate", "--scale", "worker=3")
    stack.worker_count = 3
    workers = {member.executor_id for member in stack.workers()}
    batch = stack.finished_batch(stack.start_batch(numbers=[30] * 40), 120)
    scenes.check_batch(batch, [30] * 40)
    assert {row["executor_id"] for row in batch["results"]} == workers
    batch_id = stack.start_batch(numbers=[32] * 20)
    wait_for(lambda: stack.batch(batch_id)["completed"] >= 3, 60, "some results")
    stack.compose("up", "--detach", "--wait", "--no-build", "--no-recreate", "--scale", "worker=2")
    stack.worker_count = 2
    batch = stack.finished_batch(batch_id, 120)
    scenes.check_batch(batch, [32] * 20)
    faults.check_effects(stack, batch)


def test_logs_after_all_that(stack: ComposeStack) -> None:
    scenes.check_logs(stack)
