"""An application as DBOS's documentation teaches them. It does not know Holdfast.

It starts workflows on the orders that it reads from its standard input, one JSON array a line: name, id,
arguments. ``PLAIN_LOG`` is a file that gets one line for each run of a step's body.
"""

import asyncio
import ctypes
import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from dbos import DBOS, DBOSConfig, SetWorkflowID

config: DBOSConfig = {
    "name": os.environ.get("PLAIN_NAME", "storefront"),
    "system_database_url": os.environ["PLAIN_DATABASE_URL"],
    "log_level": os.environ.get("PLAIN_LOG_LEVEL", "INFO"),
}
if "PLAIN_EXECUTOR_ID" in os.environ:
    config["executor_id"] = os.environ["PLAIN_EXECUTOR_ID"]
if "PLAIN_THREADS" in os.environ:
    config["max_executor_threads"] = int(os.environ["PLAIN_THREADS"])
if "PLAIN_SCHEMA" in os.environ:
    config["dbos_system_schema"] = os.environ["PLAIN_SCHEMA"]
    config["run_migrations"] = False
if "PLAIN_VERSION" in os.environ:
    config["application_version"] = os.environ["PLAIN_VERSION"]
DBOS(config=config)


def note(*what: Any) -> None:
    line = json.dumps([time.time(), os.getpid(), *what]) + "\n"
    with Path(os.environ["PLAIN_LOG"]).open("a") as file:
        file.write(line)


class Order:
    """A value that only a pickle can store."""

    def __init__(self, number: int) -> None:
        self.number = number


@DBOS.step()
def work(name: str, seconds: float) -> Order:
    note("work", DBOS.workflow_id, name)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        time.sleep(0.01)
    return Order(len(name))


@DBOS.step()
async def work_async(name: str, seconds: float) -> Order:
    note("work", DBOS.workflow_id, name)
    await asyncio.sleep(seconds)
    return Order(len(name))


@DBOS.workflow()
def steps(count: int, seconds: float) -> int:
    return sum(work(f"step{number}", seconds).number for number in range(count))


@DBOS.workflow()
async def steps_async(count: int, seconds: float) -> int:
    return sum([(await work_async(f"step{number}", seconds)).number for number in range(count)])


@DBOS.workflow()
def nap(seconds: float) -> str:
    work("before", 0)
    DBOS.sleep(seconds)
    work("after", 0)
    return "rested"


@DBOS.workflow()
def message(topic: str) -> Any:
    DBOS.set_event("waits", topic)
    received = DBOS.recv(topic, timeout_seconds=600)
    work("received", 0)
    return received


@DBOS.workflow(max_recovery_attempts=3)
def limited_message(topic: str) -> Any:
    return DBOS.recv(topic, timeout_seconds=600)


@DBOS.workflow()
async def message_async(topic: str) -> Any:
    received = await DBOS.recv_async(topic, timeout_seconds=600)
    await work_async("received", 0)
    return received


@DBOS.workflow()
def parent(count: int, seconds: float) -> int:
    handles = [DBOS.start_workflow(steps, count, seconds) for _ in range(2)]
    return sum(handle.get_result() for handle in handles)


@DBOS.workflow()
def queued_parent(count: int, seconds: float) -> int:
    handles = [DBOS.enqueue_workflow("packing", steps, count, seconds) for _ in range(2)]
    return sum(handle.get_result() for handle in handles)


@DBOS.workflow(max_recovery_attempts=None)
def poison() -> None:
    work("poison", 0)
    os.kill(os.getpid(), signal.SIGKILL)


@DBOS.step()
def block_interpreter() -> None:
    """Holds the GIL for ever, in the first process that runs it."""
    note("block", DBOS.workflow_id)
    lines = Path(os.environ["PLAIN_LOG"]).read_text().splitlines()
    if sum('"block"' in line for line in lines) == 1:
        while True:
            ctypes.PyDLL(None).usleep(60_000_000)


@DBOS.workflow()
def blocks() -> str:
    block_interpreter()
    return "went on"


WORKFLOWS = {
    each.__name__: each
    for each in (
        steps,
        steps_async,
        nap,
        message,
        limited_message,
        message_async,
        parent,
        queued_parent,
        poison,
        blocks,
    )
}


def start(name: str, workflow_id: str, arguments: list[Any]) -> None:
    if name in ("destroy", "relaunch", "threads"):
        if name != "threads":
            DBOS.destroy()
        if name == "relaunch":
            DBOS(config=config)
            DBOS.launch()
        note(name, workflow_id, sorted(thread.name for thread in threading.enumerate()))
        return
    queue, _, name = name.rpartition(":")
    with SetWorkflowID(workflow_id):
        if queue:
            DBOS.enqueue_workflow(queue, WORKFLOWS[name], *arguments)
        else:
            DBOS.start_workflow(WORKFLOWS[name], *arguments)


def call() -> None:
    """Runs a workflow in the main thread, like a function."""
    with SetWorkflowID("called"):
        if os.environ["PLAIN_CALLS"] == "async":
            asyncio.run(steps_async(1, 60.0))
        else:
            steps(1, 60.0)


def main() -> None:
    if "PLAIN_HANDLES_SIGTERM" in os.environ:
        ended = threading.Event()

        def handler(*_: Any) -> None:
            note("handler")
            ended.set()

        signal.signal(signal.SIGTERM, handler)
        threading.Thread(target=serve, daemon=True).start()
        ended.wait()
        if os.environ["PLAIN_HANDLES_SIGTERM"] == "destroy":
            DBOS.destroy()
        note("over")
    elif "PLAIN_SERVES_IN_THREAD" in os.environ:
        threading.Thread(target=serve).start()
        note("main has returned")
    else:
        serve()
    if "PLAIN_EXITS" in os.environ:
        raise SystemExit(int(os.environ["PLAIN_EXITS"]))


def serve() -> None:
    if "PLAIN_LAUNCHES_TWICE" in os.environ:
        DBOS.launch()
    if "PLAIN_SECOND_NAME" in os.environ:
        DBOS.destroy()
        DBOS(config={**config, "name": os.environ["PLAIN_SECOND_NAME"]})
        DBOS.launch()
    if "PLAIN_FORKS" in os.environ and os.fork() == 0:
        note("forked")
        time.sleep(600)
        os._exit(0)
    if "PLAIN_CALLS" in os.environ:
        call()
    print("ready", flush=True)
    for line in sys.stdin:
        start(*json.loads(line))


class TerminatesInLaunch(logging.Handler):
    """Sends SIGTERM to this process while it launches. Its handler lets it go on."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("Application version"):
            signal.signal(signal.SIGTERM, lambda *_: note("handler"))
            os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    if "PLAIN_TERMINATED_IN_LAUNCH" in os.environ:
        logging.getLogger("dbos").addHandler(TerminatesInLaunch())
    if "PLAIN_LISTENS" in os.environ:
        DBOS.listen_queues([os.environ["PLAIN_LISTENS"]])
    DBOS.launch()
    if "PLAIN_MAIN_IS_DEAF" in os.environ:
        # As when a signal comes just before the main thread enters a call that waits.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    for queue in ("packing", "shipping"):
        DBOS.register_queue(queue)
    main()
