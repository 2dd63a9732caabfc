"""Shapes of Fibonacci batches."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from holdfast.statuses import Status
from holdfast.web import Accepted, StrictRequest
from services.worker.fibonacci.rule import DOUBLING_LIMIT


class BatchRequest(StrictRequest):
    """A Fibonacci batch: `numbers`, or the first `count` numbers, never both.

    With `count`, number i is i; by recursion it stops growing at HOLDFAST_FIBONACCI_MAX_N.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "not": {
                "required": ["count", "numbers"],
                "properties": {"count": {"type": "integer"}, "numbers": {"type": "array"}},
            }
        }
    )

    count: int | None = Field(default=None, ge=1, le=10_000, description="how many; 50 by default")
    numbers: list[Annotated[int, Field(ge=0, le=DOUBLING_LIMIT)]] | None = Field(
        default=None, min_length=1, max_length=10_000, description="the numbers themselves, in this order"
    )
    method: Literal["recursive", "doubling"] = "recursive"
    sequential: bool = Field(default=False, description="compute each after the former's result")


class AcceptedBatch(Accepted):
    """A batch that was accepted."""

    total: int = Field(description="numbers in the batch")


class NumberResult(BaseModel):
    """One number of a batch, finished or not."""

    index: int = Field(description="its place in the request, from 0")
    n: int
    status: Status | None = Field(default=None, description="null until it is enqueued, or its turn comes")
    result: str | None = Field(
        default=None, description="F(n) in decimal; null while unfinished, or when too long"
    )
    digits: int | None = None
    sha256: str | None = Field(default=None, description="of the decimal digits")
    short: str | None = Field(default=None, description="first and last digits of a long result")
    executor_id: str | None = Field(default=None, description="the executor that computes or computed it")
    attempts: int | None = None
    started_at: str | None = None
    seconds: float | None = None
    error: str | None = None


class Batch(BaseModel):
    """A Fibonacci batch and its numbers, in the order of the request."""

    workflow_id: str
    status: Status
    total: int
    completed: int = Field(description="numbers with a result")
    results: list[NumberResult]
    error: str | None = None
