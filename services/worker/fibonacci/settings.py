"""The options of the Fibonacci batches."""

from __future__ import annotations

from pydantic import Field

from holdfast.settings import Settings


class FibonacciSettings(Settings):
    """A process's settings with those of the Fibonacci batches."""

    fibonacci_worker_concurrency: int = Field(
        0, ge=0, description="Fibonacci workflows one worker claims; 0: its CPU slots plus one"
    )
    fibonacci_max_n: int = Field(34, ge=0, le=40, description="largest n of the recursive method")
    fibonacci_max_count: int = Field(1000, ge=1, description="largest batch")

    @property
    def fibonacci_claims(self) -> int:
        """Maximum number of Fibonacci workflows that one worker claims: its slots plus one in reserve."""
        return self.fibonacci_worker_concurrency or self.slots + 1
