"""Invariant 7: soon after the end of a process, none of its children runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos.ground import Ground
from tests.support.stack import Member

SOON_SECONDS = 2.0
"""The kernel ends a child with its parent. A busy machine needs a moment for that."""


@contextmanager
def watched(ground: Ground, *members: Member) -> Iterator[None]:
    """Observes processes that end inside the context, and records how many children outlive each."""
    had = {member: len(ground.stack.children(member)) for member in members}
    yield
    for member, children in had.items():
        ground.stack.exited(member, 30)
        tell(ground, member, children)


def tell(ground: Ground, member: Member, children: int) -> None:
    """Records in the journal the children of an ended process that still live after ``SOON_SECONDS``."""
    begun = time.monotonic()
    while (left := ground.stack.outliving(member)) and time.monotonic() - begun < SOON_SECONDS:
        time.sleep(0.05)
    seconds = round(time.monotonic() - begun, 2)
    ground.journal.write("children", who=member.executor_id, children=children, left=left, seconds=seconds)
