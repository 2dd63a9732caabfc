"""Parents with one child each. Loaded by ``HOLDFAST_MODULES=tests.support.families``."""

from __future__ import annotations

import time

from dbos import DBOS

PARENTS, CHILDREN = "family-parents", "family-children"


@DBOS.step(name="family.stays")
def stay() -> None:
    time.sleep(600)


@DBOS.workflow(name="family.child", max_recovery_attempts=0)
def child(end: str) -> str:
    """Is parked when it runs again after its process was killed."""
    if end == "fails":
        raise ValueError(end)
    if end == "is cancelled":
        DBOS.sleep(600)
    if end == "is parked":
        stay()
    return end


@DBOS.workflow(name="family.parent", max_recovery_attempts=None)
def parent(end: str) -> str:
    return str(DBOS.enqueue_workflow(CHILDREN, child, end).get_result())


def setup() -> None:
    """Registers the queues."""
    for queue in (PARENTS, CHILDREN):
        DBOS.register_queue(queue, worker_concurrency=8, on_conflict="always_update")
