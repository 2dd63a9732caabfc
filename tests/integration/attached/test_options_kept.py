"""A workflow that goes on elsewhere keeps what its caller asked for when it enqueued it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.attached import AppProcess, AppRunner
from tests.support.database import wait_until

_KEPT = (
    "queue_name",
    "priority",
    "deduplication_id",
    "queue_partition_key",
    "workflow_timeout_ms",
    "workflow_deadline_epoch_ms",
    "application_version",
)


def _enqueue(apps: AppRunner, process: AppProcess, workflow_id: str, queue: str, **options: Any) -> str:
    """Enqueues a workflow that waits for a message. Returns "accepted" or "refused"."""
    timeout = options.pop("timeout", None)
    process.start("message", workflow_id, queue, options, timeout)

    def answers() -> list[str]:
        return [note[3] for note in apps.notes() if note[2] == workflow_id]

    answer: str = wait_until(answers, f"{workflow_id} is enqueued", seconds=20)[-1]
    return answer


@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_queue_priority_ids_and_limits_are_kept(apps: AppRunner, end: str) -> None:
    first = apps.app("options")
    assert (
        _enqueue(apps, first, "w", "letters", priority=7, deduplication_id="only", timeout=900) == "accepted"
    )
    assert _enqueue(apps, first, "p", "partitioned", priority=2, queue_partition_key="key") == "accepted"
    for workflow_id in ("w", "p"):
        apps.wait_waiting(workflow_id)
    before = {each: {key: apps.status(each)[key] for key in _KEPT} for each in ("w", "p")}
    assert before["w"]["workflow_deadline_epoch_ms"] and before["p"]["queue_partition_key"] == "key"
    if end == "stopped":
        first.stop()
        assert apps.status("w")["status"] == apps.status("p")["status"] == "ENQUEUED"
    second = apps.app("options")
    if end == "killed":
        first.kill()
    owner = apps.executor(second.pid)["executor_id"]
    for workflow_id in ("w", "p"):
        wait_until(
            lambda each=workflow_id: apps.status(each)["executor_id"] == owner, "taken over", seconds=20
        )
        apps.wait_waiting(workflow_id)
        assert {key: apps.status(workflow_id)[key] for key in _KEPT} == before[workflow_id]
    assert _enqueue(apps, second, "again", "letters", deduplication_id="only") == "refused"
    # The partition's only slot is taken.
    assert _enqueue(apps, second, "next", "partitioned", queue_partition_key="key") == "accepted"
    assert _enqueue(apps, second, "other", "partitioned", queue_partition_key="other") == "accepted"
    apps.wait_waiting("other")
    assert apps.status("next")["status"] == "ENQUEUED"
    for workflow_id in ("w", "p"):
        second.start("send", workflow_id, "paid")
        apps.wait_status(workflow_id)
    apps.wait_waiting("next")
    assert _enqueue(apps, second, "later", "letters", deduplication_id="only") == "accepted"
