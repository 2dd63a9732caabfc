"""The Fibonacci queue. A batch enqueues one workflow per number, a sequence computes all in one workflow.

Each number is computed in a child process and then has one effect. Plain recursion is the load on purpose. A
cancel kills the compute step with its child. The step retries when its child dies, so that a killed child
costs an attempt and not the workflow.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, Final

from dbos import DBOS
from dbos import error as dbos_error
from typing_extensions import TypedDict

from holdfast import Queue, attempt, register, step, workflow
from holdfast.errors import CpuCancelled, CpuChildDied, CpuError, CpuPoolClosed
from holdfast.runtime import Cancellation, enqueue_missing, resources, trace_attributes, until_unfinished
from holdfast.settings import Settings
from services.worker.fibonacci.rule import Method, summary
from services.worker.fibonacci.settings import FibonacciSettings
from services.worker.poison.workflows import poison

CHILD_DEATHS_LIMIT = 5


class Number(TypedDict):
    """One computed number. ``result`` is decimal, None if it has more than 4,000 digits."""

    n: int
    method: str
    result: str | None
    digits: int
    sha256: str
    short: str
    executor_id: str
    pid: int
    attempts: int
    started_at: str
    seconds: float


class BatchFailedError(Exception):
    """Some numbers of a batch have no result. The message names the first one and the reason."""


def _child_died(error: BaseException) -> bool:
    return isinstance(error, CpuChildDied)


@step("fibonacci.compute", attempts=CHILD_DEATHS_LIMIT, wait_seconds=0.1, should_retry=_child_died)
def compute(n: int, method: Method, cancellation: Cancellation) -> Number:
    """Computes F(n) in a child process. Raises ``CpuError`` when the fifth child has died.

    This step and its workflows are not async: each wait for PostgreSQL would be two hops between threads,
    which cost more than the statement.
    """
    pool = resources().pool
    if pool is None:
        raise RuntimeError("this process has no CPU pool: Fibonacci numbers belong on a worker")
    started_at = datetime.now(UTC).isoformat()
    try:
        done = pool.run_sync(summary, n, method, cancellation=cancellation)
    except (CpuCancelled, CpuPoolClosed) as left:
        # Nothing is recorded. A resumed workflow computes again, and so does the next executor after this
        # process stops, with or without a handover.
        raise dbos_error.DBOSWorkflowCancelledError(str(left)) from left
    except CpuChildDied as death:
        if attempt() < CHILD_DEATHS_LIMIT:
            raise
        raise CpuError(f"{attempt()} child processes died computing F({n}). The last one: {death}") from death
    return Number(
        **done.value,
        executor_id=resources().executor_id,
        pid=done.pid,
        attempts=attempt(),
        started_at=started_at,
        seconds=round(done.seconds, 6),
    )


@workflow("fibonacci.number", label_with_input="fib({0})")
def number(n: int, method: Method) -> Number:
    """Computes one number, then writes its effect once."""
    with _cancellation() as cancellation:
        return _number(n, method, "effect", cancellation)


@workflow("fibonacci.sequence", label="batch, in turn")
def sequence(numbers: list[int], method: Method) -> dict[str, Any]:
    """Computes each number after the previous result, with the same two steps and one effect each.

    Ends at the first number that cannot be computed, with its ``CpuError``.
    """
    with _cancellation() as cancellation:
        results = [_number(n, method, str(index), cancellation) for index, n in enumerate(numbers)]
        return {"total": len(results), "results": results}


def _cancellation() -> AbstractContextManager[Cancellation]:
    return resources().waker.cancellations.watch_current(str(DBOS.workflow_id))


def _number(n: int, method: Method, effect: str, cancellation: Cancellation) -> Number:
    result = compute(n, method, cancellation)
    ledger = resources().ledger
    if ledger is None:
        raise RuntimeError("this process has no effect ledger: Fibonacci numbers belong on a worker")
    ledger.record(effect, executor_id=resources().executor_id, n=n, sha256=result["sha256"])
    return result


@step("fibonacci.enqueue")
async def enqueue(numbers: dict[str, int], method: Method, attributes: dict[str, object] | None) -> list[str]:
    """Enqueues one workflow per number, by id. Existing ones are left unchanged. Returns the ids."""
    await enqueue_missing(
        number.name,
        {workflow_id: (n, method) for workflow_id, n in numbers.items()},
        queue_name=NUMBER_QUEUE.name,
        role="worker",
        attributes=attributes,
    )
    return list(numbers)


@step("fibonacci.collect")
async def collect(workflow_ids: list[str]) -> list[dict[str, Any]]:
    """Reads the children's results, in the order of the ids. A failed child has ``error`` instead."""
    statuses = {
        status.workflow_id: status
        for status in await DBOS.list_workflows_async(
            workflow_ids=workflow_ids, load_input=False, load_output=True
        )
    }
    collected: list[dict[str, Any]] = []
    for workflow_id in workflow_ids:
        status = statuses.get(workflow_id)
        if status is not None and status.status == "SUCCESS" and isinstance(status.output, dict):
            collected.append(status.output)
            continue
        # An unreadable result (PickleRefused) arrives as the stored text.
        why = f"{status.status}: {status.error or 'unreadable'}" if status is not None else "missing"
        collected.append({"workflow_id": workflow_id, "error": why})
    return collected


@workflow("fibonacci.batch", label="batch")
async def batch(numbers: list[int], method: Method) -> dict[str, Any]:
    """Enqueues all numbers together, and collects the results in order.

    Raises ``BatchFailedError`` if a number ended without a result. The wait is not recorded, so a batch that
    continues on another executor waits there.
    """
    batch_id = str(DBOS.workflow_id)
    by_id = {f"{batch_id}-{index}": n for index, n in enumerate(numbers)}
    ids = await enqueue(by_id, method, trace_attributes())
    # After a fork from a later step, the children belong to the original.
    await until_unfinished(ids[-1].rpartition("-")[0])
    results = await collect(ids)
    failed = [r for r in results if "error" in r]
    if failed:
        first = f"{failed[0]['workflow_id']} {failed[0]['error']}"
        raise BatchFailedError(f"{len(failed)} of {len(results)} numbers have no result, first {first}")
    return {"total": len(results), "results": results}


def _claims(settings: Settings) -> int:
    return FibonacciSettings.of(settings).fibonacci_claims


BATCH_QUEUE: Final = Queue("fibonacci-batches", [batch], at_once=32, parents=True)
# Greedy claims would leave the last numbers to one worker while the other idles.
NUMBER_QUEUE: Final = Queue("fibonacci", [number, poison], at_once=_claims)
# Each sequence computes one number at a time and shares the CPUs with the number queue.
SEQUENCE_QUEUE: Final = Queue("fibonacci-sequences", [sequence], at_once=_claims)
register(BATCH_QUEUE, NUMBER_QUEUE, SEQUENCE_QUEUE)
