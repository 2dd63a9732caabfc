"""What the routes share: the process behind the application, and a few bounds that belong to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from fastapi import Request

from holdfast.errors import Draining

if TYPE_CHECKING:
    from holdfast.process.process import Process

RETRY_SECONDS = 1


class Places:
    """A bounded number of places, taken and given back on the event loop."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0

    def take(self) -> bool:
        """One place, unless all are taken."""
        if self.taken >= self.limit:
            return False
        self.taken += 1
        return True

    def give_back(self) -> None:
        """Undo one `take`."""
        self.taken -= 1


def process_of(request: Request) -> Process:
    """The process that the application was made for."""
    return cast("Process", request.app.state.process)


async def accepting(request: Request) -> None:
    """A dependency of routes that start work: raises `Draining` unless the process is live."""
    process = process_of(request)
    if process.stopping or process.state != "live":
        raise Draining
