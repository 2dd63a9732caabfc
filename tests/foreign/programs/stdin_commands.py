"""Shared by the programs: a log of steps, and commands (``start ID``, ``signal ID``) from standard input."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path


def log_step(workflow_id: str | None, step: str) -> None:
    """Logs that the body of a step runs in this process."""
    with Path(os.environ["STEP_LOG"]).open("a") as file:
        file.write(f"{workflow_id} {step} {os.getpid()}\n")


def commands() -> Iterator[list[str]]:
    """Yields a command and a workflow's id for each line."""
    print("ready", flush=True)
    for line in sys.stdin:
        yield line.split()


async def commands_async() -> AsyncIterator[list[str]]:
    """Yields the same without blocking the event loop."""
    lines = commands()
    while command := await asyncio.to_thread(next, lines, None):
        yield command
