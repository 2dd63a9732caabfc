"""A user-defined module with a step that blocks the interpreter, beside a healthy one."""

from __future__ import annotations

import ctypes
import time

from holdfast.durable.registry import Queue, register, step, workflow


@step("hogs.block")
def block(seconds: float) -> int:
    """Stays in C with the interpreter's lock held, without using a CPU."""
    return int(ctypes.PyDLL(None).usleep(int(seconds * 1e6)))


@workflow("hogs.hog")
def hog(seconds: float) -> int:
    """Blocks its process."""
    return block(seconds)


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
