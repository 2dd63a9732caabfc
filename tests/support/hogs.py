"""A user-defined module with a step that blocks the interpreter, beside a healthy one."""

from __future__ import annotations

import re
import time

from holdfast.durable.registry import Queue, register, step, workflow


@step("hogs.match")
def match(length: int) -> bool:
    """Backtracks in C with the interpreter's lock held, for hours at a length of 40."""
    return re.match(r"(x+x+)+y", "x" * length) is not None


@workflow("hogs.hog")
def hog(length: int) -> bool:
    """Blocks its process."""
    return match(length)


@step("hogs.rest")
def rest(seconds: float) -> str:
    """A healthy step."""
    time.sleep(seconds)
    return "rested"


@workflow("hogs.slow")
def slow(seconds: float) -> str:
    """A healthy workflow."""
    return rest(seconds)


register(Queue("hogs", [hog]), Queue("hogs-slow", [slow], at_once=4))
