"""Shared by the routes: the process behind the application, and limits on concurrent requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from fastapi import Request

from holdfast.errors import Draining

if TYPE_CHECKING:
    from holdfast.process.process import Process

RETRY_SECONDS = 1


class Permits:
    """A bounded number of permits, acquired and released on the event loop."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_use = 0

    def acquire(self) -> bool:
        """Acquires one permit. Returns False if none is free."""
        if self.in_use >= self.limit:
            return False
        self.in_use += 1
        return True

    def release(self) -> None:
        """Releases one permit."""
        self.in_use -= 1


def process_of(request: Request) -> Process:
    """Returns the process that the application belongs to."""
    return cast("Process", request.app.state.process)


async def accepting(request: Request) -> None:
    """FastAPI dependency of routes that start work: raises `Draining` unless the process is live."""
    process = process_of(request)
    if process.stopping or process.state != "live":
        raise Draining
