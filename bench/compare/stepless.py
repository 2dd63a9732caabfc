"""A workflow without a step, for the benchmark alone: what the framework itself costs."""

from __future__ import annotations

from dbos import DBOS

QUEUE = "bench-stepless"
NAME = "bench.stepless"


@DBOS.workflow(name=NAME)
def stepless(number: int) -> int:
    """Returns its argument."""
    return number
