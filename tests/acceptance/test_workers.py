"""Workers are killed, stopped, paused and drained in the middle of CPU steps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import faults, scenes
from tests.support.native_stack import NativeStack
from tests.support.stack import Stack, running_stack

DRAIN_SECONDS = 1.0
GRACE_SECONDS = 8.0
# About 1 s, 4 s and 15 s of an idle core: long enough to be killed in, longer than a drain, than a test.
SHORT, LONG, ENDLESS = 35, 37, 40


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One stack for the module, with large n and a short drain."""
    started = NativeStack(
        tmp_path_factory.mktemp("workers"),
        HOLDFAST_FIBONACCI_MAX_N="40",
        HOLDFAST_DRAIN_SECONDS=str(DRAIN_SECONDS),
        HOLDFAST_STOP_GRACE_SECONDS=str(GRACE_SECONDS),
    )
    with running_stack(started) as stack:
        yield stack


@pytest.mark.timing
def test_idle_worker_stops_at_once(stack: Stack) -> None:
    faults.check_idle_stop(stack, limit_seconds=1)


def test_killed_child_costs_an_attempt(stack: Stack) -> None:
    faults.check_child_death(stack, SHORT)


def test_five_dead_children_end_in_a_clear_error(stack: Stack) -> None:
    faults.check_five_deaths(stack, ENDLESS)


@pytest.mark.timing
def test_cancel_ends_running_children(stack: Stack) -> None:
    scenes.check_cancel(stack, ENDLESS, limit_seconds=1.5)


@pytest.mark.timing
def test_sigkill_in_the_middle_of_steps(stack: Stack) -> None:
    faults.check_kill(stack, SHORT, limit_seconds=1, rounds=2)


@pytest.mark.timing
def test_sigterm_in_the_middle_of_a_long_step(stack: Stack) -> None:
    faults.check_stop_in_a_step(stack, LONG, drain_seconds=DRAIN_SECONDS, late_seconds=1)


def test_sigterm_in_short_steps(stack: Stack) -> None:
    faults.check_stop_in_short_steps(stack)


@pytest.mark.timing
def test_sigstop_beyond_the_lease(stack: Stack) -> None:
    faults.check_pause(stack, SHORT, limit_seconds=5 + 1)


def test_drain_by_the_api(stack: Stack) -> None:
    victim = stack.workers()[0]
    refused = stack.request("POST", f"/executors/{victim.executor_id}/crash")
    assert refused.status_code == 403
    stack.post(f"/executors/{victim.executor_id}/drain")
    assert stack.exited(victim, 5).code == 0
    assert stack.executors()[victim.executor_id]["state"] == "drained"
    again = stack.request("POST", f"/executors/{victim.executor_id}/drain")
    assert again.status_code == 409


def test_log_lines_after_all_that(stack: Stack) -> None:
    scenes.check_logs(stack)
