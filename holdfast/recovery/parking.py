"""Parks poison: ends a workflow that keeps crashing its process, so that no process runs it again.

`blame` decides which workflow is poison. `takeover` calls this module within the transaction of the takeover.
A parked workflow stays parked until an operator resumes or cancels it.
"""

from __future__ import annotations

import logging

from holdfast.postgres.database import Connection, query

log = logging.getLogger("holdfast.takeover")


def park_workflows(connection: Connection, workflow_ids: list[str], executor_id: str) -> None:
    """Parks the workflows that this lost executor ran. The status is the one of DBOS's dead letters."""
    if workflow_ids:
        query(connection, "park_work", workflow_ids=workflow_ids, executor_id=executor_id)
        log.error(
            "parked %s",
            ", ".join(workflow_ids),
            extra={"action": "workflow.parked", "workflow_ids": workflow_ids},
        )
