"""Messages are received once each, while the workflow's worker is killed, and its next one drained."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from tests.support.native_stack import NativeStack
from tests.support.stack import ROOT, Member, clean_environment, running_stack, wait_for

COUNT = 120


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeStack]:
    """Workers that know the workflow, with a short drain."""
    settings = {"HOLDFAST_MODULES": "tests.support.talking", "HOLDFAST_DRAIN_SECONDS": "1"}
    with running_stack(NativeStack(tmp_path_factory.mktemp("talk"), **settings)) as started:
        yield started


def runner(stack: NativeStack, workflow_id: str) -> Member:
    """The process that runs it."""

    def found() -> Member | None:
        row = stack.get(f"/workflows/{workflow_id}")
        members = {member.executor_id: member for member in stack.workers()}
        return members.get(row["executor_id"]) if row["status"] == "PENDING" else None

    return wait_for(found, 30, "it runs somewhere")


def test_no_message_is_lost_or_received_twice(stack: NativeStack) -> None:
    body = {"workflow": "talk.collect", "arguments": {"count": COUNT}}
    workflow_id = stack.post("/workflows", body)["workflow_id"]
    path = f"/workflows/{workflow_id}"

    def found() -> dict[str, str] | None:
        # For its queue first.
        waiting: dict[str, str] | None = stack.get(path)["waiting"]
        return waiting if waiting and waiting["kind"] == "message" else None

    waiting = wait_for(found, 30, "it says that it waits for a message")
    assert waiting["subject"] == "number"
    left = datetime.fromisoformat(waiting["until"]) - datetime.now(UTC)
    assert timedelta(seconds=60) < left < timedelta(seconds=121)
    text: list[str] = []

    def follow() -> None:
        with httpx.stream("GET", f"{stack.url}{path}/streams/numbers", timeout=60, trust_env=False) as answer:
            text.extend(answer.iter_lines())

    following = threading.Thread(target=follow, daemon=True)
    following.start()

    def received() -> int:
        events = stack.get(f"{path}/events")["events"]
        return int(events[0]["value"]) if events else 0

    victims = []
    for number in range(COUNT):
        key = {"Idempotency-Key": f"{workflow_id}-{number}"}
        for _ in range(2):  # a client that got no answer sends again
            stack.post(f"{path}/messages", {"message": number, "topic": "number"}, headers=key)
        if number in (30, 60):
            victims.append(runner(stack, workflow_id))
            wait_for(lambda n=number: received() >= n // 2, 30, "it receives")
            (stack.crash if number == 30 else stack.stop)(victims[-1])
    done = stack.finished(workflow_id, 60)

    assert sorted(done["output"]) == list(range(COUNT))
    assert received() == COUNT
    kinds = {move["from_executor"]: move["kind"] for move in stack.handovers([workflow_id])}
    assert kinds == {victims[0].executor_id: "takeover", victims[1].executor_id: "handover"}
    following.join(15)
    assert not following.is_alive(), "the stream's end ends what follows it"
    values = [json.loads(line[6:]) for line in text if line.startswith("data: ")]
    assert [value["value"] for value in values[:-1]] == done["output"]
    assert values[-1]["closed"]
    assert stack.request("POST", f"{path}/messages", json={"message": 0}).status_code == 409


def test_the_command_line_does_the_same(stack: NativeStack) -> None:
    body = {"workflow": "talk.collect", "arguments": {"count": 2}}
    workflow_id = stack.post("/workflows", body)["workflow_id"]

    def command(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "holdfast.cli.main", *words],
            cwd=ROOT,
            env=clean_environment(HOLDFAST_HOME=str(stack.home), HOLDFAST_URL=stack.url),
            capture_output=True,
            check=False,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    for number in (5, 6):
        assert "is stored" in command("send", workflow_id, str(number), "--topic", "number")
    assert command("stream", workflow_id, "numbers").split() == ["5", "6"]
    assert re.search(r"received +2", command("events", workflow_id))
