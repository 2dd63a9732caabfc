"""Reads a Fibonacci batch: its numbers, its children, and their executors. Blocking code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dbos import DBOSClient, WorkflowStatus
from pydantic import ValidationError

from holdfast.errors import UnknownWorkflow
from holdfast.web import error_text, find, iso
from services.worker.fibonacci import workflows
from services.worker.fibonacci.models import Batch, NumberResult


def read_batch(
    client: DBOSClient,
    batch_id: str,
    known: Mapping[int, NumberResult] | None = None,
) -> Batch:
    """Returns the batch's present state. Succeeded numbers in `known` are not loaded again.

    Raises `UnknownWorkflow` if there is no Fibonacci batch with that id.
    """
    row = find(client, batch_id, payload=True)
    if row is None or row.name not in (workflows.batch.name, workflows.sequence.name):
        raise UnknownWorkflow(
            "There is no Fibonacci batch with this id. GET /workflows?name=fibonacci.batch lists them, and"
            " name=fibonacci.sequence those in turn."
        )
    numbers = _numbers(row)
    finished = _from_output(row, numbers)
    if finished is None and row.name == workflows.sequence.name:
        finished = _from_steps(client, row, numbers)
    elif finished is None:
        finished = _from_children(client, row, numbers, known or {})
    return Batch(
        workflow_id=batch_id,
        status=row.status,
        total=len(numbers),
        completed=sum(number.status == "SUCCESS" for number in finished),
        results=finished,
        error=error_text(row.error),
    )


def _numbers(row: WorkflowStatus) -> list[int]:
    # An unreadable input arrives as a string. Then only the status can be shown.
    args = row.input["args"] if isinstance(row.input, dict) else ()
    first = args[0] if args else []
    return [int(number) for number in first] if isinstance(first, list | tuple) else []


def _from_output(row: WorkflowStatus, numbers: list[int]) -> list[NumberResult] | None:
    """Returns a finished batch's results from its own output, even after its children were deleted."""
    results = row.output.get("results") if isinstance(row.output, dict) else None
    if row.status != "SUCCESS" or not isinstance(results, list) or len(results) != len(numbers):
        return None
    return [_computed(index, n, results[index]) for index, n in enumerate(numbers)]


def _from_steps(client: DBOSClient, row: WorkflowStatus, numbers: list[int]) -> list[NumberResult]:
    """Returns an unsuccessful sequence's recorded computations, and the current one."""
    steps = client.list_workflow_steps(row.workflow_id)
    done = [
        step["output"]
        for step in steps
        if step["function_name"] == "fibonacci.compute" and step["error"] is None
    ]
    found = [_computed(index, numbers[index], output) for index, output in enumerate(done)]
    for index, n in list(enumerate(numbers))[len(done) :]:
        at = index == len(done)
        found.append(
            NumberResult(
                index=index,
                n=n,
                status=row.status if at else None,
                executor_id=row.executor_id if at and row.status != "ENQUEUED" else None,
                error=error_text(row.error) if at else None,
            )
        )
    return found


def _from_children(
    client: DBOSClient,
    row: WorkflowStatus,
    numbers: list[int],
    known: Mapping[int, NumberResult],
) -> list[NumberResult]:
    children = client.list_workflows(parent_workflow_id=row.workflow_id, load_input=False, load_output=False)
    by_index = {_index(row.workflow_id, child): child for child in children}
    wanted = [
        child.workflow_id
        for index, child in by_index.items()
        if child.status in ("SUCCESS", "ERROR") and index not in known
    ]
    loaded = client.list_workflows(workflow_ids=wanted, load_input=False, load_output=True) if wanted else []
    by_index.update({_index(row.workflow_id, child): child for child in loaded})
    return [_number(index, n, by_index.get(index), known.get(index)) for index, n in enumerate(numbers)]


def _index(batch_id: str, child: WorkflowStatus) -> int:
    suffix = child.workflow_id.removeprefix(f"{batch_id}-")
    return int(suffix) if suffix.isdecimal() else -1


def _number(index: int, n: int, child: WorkflowStatus | None, known: NumberResult | None) -> NumberResult:
    if child is None:
        return known or NumberResult(index=index, n=n, status=None)
    if child.status == "SUCCESS":
        return known or _computed(index, n, child.output)
    return NumberResult(
        index=index,
        n=n,
        status=child.status,
        executor_id=child.executor_id if child.status != "ENQUEUED" else None,
        attempts=child.recovery_attempts,
        started_at=iso(child.dequeued_at),
        error=error_text(child.error),
    )


def _computed(index: int, n: int, output: Any) -> NumberResult:
    fields = output if isinstance(output, dict) else {}
    try:
        return NumberResult.model_validate({**fields, "index": index, "n": n, "status": "SUCCESS"})
    except ValidationError:
        return NumberResult(index=index, n=n, status="SUCCESS", error="the stored result can't be read")
