"""Sets DBOS's context in a child process that runs a single step."""

from __future__ import annotations

from dbos import DBOSContextEnsure


def become_step(workflow_id: str, step_id: int) -> None:
    """Makes this process run that step: ``DBOS.workflow_id`` and ``DBOS.step_id`` return these ids.

    The process never leaves the context: it ends with its step.
    """
    context = DBOSContextEnsure().__enter__()
    context.workflow_id = workflow_id
    context.function_id = context.curr_step_function_id = step_id
