"""Two poisons, one after the other, beside 15 healthy jobs: each parked at its fifth crash, nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.chaos.poison import send
from tests.support import faults, names, scenes
from tests.support.native_stack import NativeStack
from tests.support.reporting import record
from tests.support.stack import Stack, running_stack, wait_for

LIMIT = 5
JOB = 34
"""Most of a second on an idle core, many on a busy one: cut off by crash after crash without a step."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack in which poison may kill."""
    started = NativeStack(tmp_path_factory.mktemp("poison"), HOLDFAST_CHAOS="true")
    with running_stack(started) as stack:
        yield stack


def parked(stack: Stack) -> set[str]:
    rows = stack.query(
        "SELECT workflow_uuid AS id FROM dbos.workflow_status WHERE status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED'"
    )
    return {row["id"] for row in rows}


def test_poison_after_poison_beside_healthy_jobs(stack: Stack) -> None:
    numbers = [JOB] * 15
    batch_id = stack.start_batch(numbers=numbers)
    poisons = []
    for _ in range(2):
        # The second comes while healthy suspects of the first may still wait or run.
        poisons.append(send(stack))
        wait_for(lambda: poisons[-1] in parked(stack), 240, "the poison is parked", pause_seconds=0.3)
    batch = stack.finished_batch(batch_id, 240)
    scenes.check_batch(batch, numbers)
    faults.check_effects(stack, batch)
    assert parked(stack) == set(poisons), "something healthy is parked"
    for poison in poisons:
        (row,) = stack.query(f"SELECT crashes FROM ops.crashes WHERE workflow_id = '{poison}'")
        assert row["crashes"] == LIMIT
        moves = [move for move in stack.handovers([poison]) if move["kind"] == "takeover"]
        assert len(moves) == LIMIT, "killed its process more or less often than it was counted"
        last = moves[-1]["from_executor"]
        ran = stack.query(f"SELECT workflow_name AS name FROM ops.handovers WHERE from_executor = '{last}'")
        beside = Counter(row["name"] for row in ran) - Counter([names.POISON])
        assert set(beside) <= {names.FIBONACCI_BATCH}, "its last run had company"
    suspects = stack.query(
        "SELECT count(*) AS n, coalesce(max(crashes), 0) AS most FROM ops.crashes WHERE parked_at IS NULL"
    )
    record("healthy jobs that were counted beside two poisons", suspects[0]["n"])
    record("their most crashes", suspects[0]["most"])
