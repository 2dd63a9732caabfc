"""The API is killed, stopped and replaced in the middle of work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support import scenes
from tests.support.native_stack import NativeStack
from tests.support.reporting import record
from tests.support.stack import Stack, running_stack, wait_for


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One stack for the module."""
    with running_stack(NativeStack(tmp_path_factory.mktemp("api"), workers=1)) as started:
        yield started


@pytest.mark.parametrize("path", ["/scope/class", "/scope/instance/beta", "/scope/function"])
def test_kill_9_in_the_middle_of_a_scope_workflow(stack: Stack, path: str) -> None:
    scenes.check_scope_across_a_crash(stack, path)


def test_lost_answer_converges_by_its_key(stack: Stack) -> None:
    """The client that waited gets a broken connection, and the report when it asks again."""
    key = {"Idempotency-Key": f"lost-{time.time_ns()}"}
    body = {"steps": 10, "step_seconds": 0.1, "wait": True}
    before = stack.api()
    answers: list[Any] = []
    with scenes.in_background(lambda: answers.append(scenes.attempt(stack, "/scope/class", body, key))):
        started = wait_for(
            lambda: [
                w["workflow_id"]
                for w in stack.get("/workflows?status=PENDING&name=ClassScope.run")["workflows"]
                if w["executor_id"] == before.executor_id
            ],
            10,
            "the workflow runs",
        )
        wait_for(lambda: stack.get(f"/workflows/{started[0]}/steps")["steps"], 10, "a recorded step")
        stack.kill(before)
    assert isinstance(answers[0], httpx.TransportError)
    again = wait_for(
        lambda: (a := stack.request("POST", "/scope/class", json=body, headers=key)).status_code == 200 and a,
        30,
        "the report by the same key",
    ).json()
    assert again["workflow_id"] == started[0]
    assert again["report"]["counters"]["durable"] == 10


def test_shutdown_gives_a_new_incarnation(stack: Stack) -> None:
    before = stack.api()
    begun = time.monotonic()
    answer = stack.post("/shutdown")
    assert answer == {"status": "draining", "executor_id": before.executor_id}
    assert stack.exited(before, 10).code == 0
    record("POST /shutdown of an idle API to its exit, seconds", time.monotonic() - begun)
    after = stack.api()
    assert after.executor_id != before.executor_id
    row = stack.executors()[before.executor_id]
    assert (row["state"], row["taken_over_by"]) == ("drained", None)
    assert stack.pending_under(before.executor_id) == []


def test_shutdown_in_the_middle_of_work_loses_nothing(stack: Stack) -> None:
    """Running steps are finished, what comes after them goes on in the next incarnation."""
    accepted = stack.post("/scope/class", {"steps": 20, "step_seconds": 0.2})["workflow_id"]
    before = stack.api()
    wait_for(lambda: len(stack.get(f"/workflows/{accepted}/steps")["steps"]) >= 3, 10, "three steps")
    stack.post("/shutdown")
    assert stack.exited(before, 25).code == 0
    stack.api()
    assert stack.pending_under(before.executor_id) == []
    assert stack.finished(accepted, 30)["output"]["counters"]["durable"] == 20


def test_cache_is_cold_after_a_restart_and_shows_a_rotated_secret(stack: Stack) -> None:
    scenes.check_cache_across_restarts(stack)


def test_secret_is_nowhere(stack: Stack) -> None:
    """After all of the above, in the same database and logs."""
    scenes.check_users(stack)
    scenes.check_no_secret(stack)


def test_logs_of_crashed_and_stopped_processes(stack: Stack) -> None:
    scenes.check_logs(stack)
