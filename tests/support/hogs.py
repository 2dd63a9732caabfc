"""A module of one's own whose step blocks the interpreter, beside one that works."""

from __future__ import annotations

import re
import time

from holdfast.durable.registry import Queue, register, step, workflow


@step("hogs.match")
def match(length: int) -> bool:
    """Backtracks in C, with the interpreter's lock held: for hours at a length of 40."""
    return re.match(r"(x+x+)+y", "x" * length) is not None


@workflow("hogs.hog")
def hog(length: int) -> bool:
    """Blocks its process."""
    return match(length)


@step("hogs.rest")
def rest(seconds: float) -> str:
    """Works."""
    time.sleep(seconds)
    return "rested"


@workflow("hogs.slow")
def slow(seconds: float) -> str:
    """Is healthy."""
    return rest(seconds)


register(Queue("hogs", [hog]), Queue("hogs-slow", [slow], at_once=4))
