"""Root → child → grandchild, called directly or through queues. Every answer lists its ancestors."""

from __future__ import annotations

import logging
from typing import Any

from dbos import DBOS, SetWorkflowID

from holdfast.runtime import resources, timed_step, traced
from services.api.nesting.declaration import CHILD, CHILD_QUEUE, GRANDCHILD, GRANDCHILD_QUEUE, ROOT

log = logging.getLogger("holdfast.nesting")


def _answer(level: str, parents: list[str], below: dict[str, Any] | None) -> dict[str, Any]:
    log.info(
        "%s below %s", level, parents or "nobody", extra={"action": "nesting.entered", "parents": parents}
    )
    return {
        "level": level,
        "workflow_id": DBOS.workflow_id,
        "parents": parents,
        "executor_id": resources().executor_id,
        "below": below,
    }


@DBOS.step(name="nesting.touch")
def touch(level: str) -> str:
    """A step on every level, so that each level records something."""
    with timed_step("nesting.touch"):
        return level


@DBOS.workflow(name=GRANDCHILD.name, max_recovery_attempts=None)
def grandchild(parents: list[str], queued: bool) -> dict[str, Any]:  # noqa: ARG001  stored with the others' shape
    """The lowest level of the nested workflows."""
    touch("grandchild")
    return _answer("grandchild", parents, None)


@DBOS.workflow(name=CHILD.name, max_recovery_attempts=None)
def child(parents: list[str], queued: bool) -> dict[str, Any]:
    """The middle level. Starts the grandchild."""
    touch("child")
    below = _start(grandchild, GRANDCHILD_QUEUE.name, "grandchild", parents, queued)
    return _answer("child", parents, below)


@DBOS.workflow(name=ROOT.name, max_recovery_attempts=None)
def root(queued: bool) -> dict[str, Any]:
    """The top level. Its answer contains the answers of all levels."""
    touch("root")
    below = _start(child, CHILD_QUEUE.name, "child", [], queued)
    return _answer("root", [], below)


def _start(workflow: Any, queue: str, level: str, parents: list[str], queued: bool) -> dict[str, Any]:
    workflow_id = str(DBOS.workflow_id)
    parents = [*parents, workflow_id]
    with SetWorkflowID(f"{workflow_id}-{level}"), traced():
        if not queued:
            return workflow(parents, queued)  # type: ignore[no-any-return]
        handle = DBOS.enqueue_workflow(queue, workflow, parents, queued)
    return handle.get_result()  # type: ignore[no-any-return]
