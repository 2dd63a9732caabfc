"""Workflows with all kinds of waits, sync, async and typed, and one that blocks its process.

Loaded by ``HOLDFAST_MODULES=tests.support.waiting_workflows``. ``WAITING_OUT``: a directory for their marks.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dbos import DBOS

from holdfast.durable.registry import Queue, register, step, workflow

_OUT = Path(os.environ.get("WAITING_OUT", "/tmp/waiting-out"))

LEAVES, PARENTS, CHILDREN = "waiting-leaves", "waiting-parents", "waiting-children"
FULL, ALONE, RUNNING = "waiting-full", "waiting-alone", "waiting-running"
_LONG = 600.0


@contextmanager
def _bodys_end() -> Iterator[None]:
    """Marks the end of this execution of the body, whatever its outcome."""
    name = str(DBOS.workflow_id)
    try:
        yield
    finally:
        _OUT.mkdir(parents=True, exist_ok=True)
        with (_OUT / name).open("a") as file:
            file.write(f"{time.time():.3f}\n")


# --- plain, sync ---


@DBOS.workflow(name="waiting.sync.sleep", max_recovery_attempts=None)
def sync_sleep(subject: str, seconds: float) -> str:
    with _bodys_end():
        DBOS.sleep(seconds)
        return f"slept {subject}"


@DBOS.workflow(name="waiting.sync.recv", max_recovery_attempts=None)
def sync_recv(subject: str, seconds: float) -> str:
    with _bodys_end():
        return f"got {DBOS.recv('topic', timeout_seconds=_LONG)}"


@DBOS.workflow(name="waiting.sync.event", max_recovery_attempts=None)
def sync_event(subject: str, seconds: float) -> str:
    with _bodys_end():
        return f"saw {DBOS.get_event(subject, 'key', timeout_seconds=_LONG)}"


@DBOS.workflow(name="waiting.sync.child", max_recovery_attempts=None)
def sync_child(subject: str, seconds: float) -> str:
    with _bodys_end():
        return f"child {DBOS.enqueue_workflow(CHILDREN, sync_recv, subject, seconds).get_result()}"


@DBOS.workflow(name="waiting.sync.queue", max_recovery_attempts=None)
def sync_queue(subject: str, seconds: float) -> str:
    with _bodys_end():
        return f"queued {DBOS.enqueue_workflow(FULL, quick).get_result()}"


@DBOS.workflow(name="waiting.quick", max_recovery_attempts=None)
def quick() -> str:
    return "quick"


# --- plain, async ---


@DBOS.workflow(name="waiting.async.sleep", max_recovery_attempts=None)
async def async_sleep(subject: str, seconds: float) -> str:
    with _bodys_end():
        await DBOS.sleep_async(seconds)
        return f"slept {subject}"


@DBOS.workflow(name="waiting.async.recv", max_recovery_attempts=None)
async def async_recv(subject: str, seconds: float) -> str:
    with _bodys_end():
        return f"got {await DBOS.recv_async('topic', timeout_seconds=_LONG)}"


@DBOS.workflow(name="waiting.async.event", max_recovery_attempts=None)
async def async_event(subject: str, seconds: float) -> str:
    with _bodys_end():
        return f"saw {await DBOS.get_event_async(subject, 'key', timeout_seconds=_LONG)}"


@DBOS.workflow(name="waiting.async.child", max_recovery_attempts=None)
async def async_child(subject: str, seconds: float) -> str:
    with _bodys_end():
        handle = await DBOS.enqueue_workflow_async(CHILDREN, async_recv, subject, seconds)
        return f"child {await handle.get_result()}"


@DBOS.workflow(name="waiting.async.queue", max_recovery_attempts=None)
async def async_queue(subject: str, seconds: float) -> str:
    with _bodys_end():
        handle = await DBOS.enqueue_workflow_async(FULL, quick)
        return f"queued {await handle.get_result()}"


# --- typed ---


@workflow("waiting.typed.sleep")
def typed_sleep(subject: str, seconds: float) -> str:
    with _bodys_end():
        DBOS.sleep(seconds)
        return f"slept {subject}"


@workflow("waiting.typed.recv")
def typed_recv(subject: str, seconds: float) -> str:
    with _bodys_end():
        return f"got {DBOS.recv('topic', timeout_seconds=_LONG)}"


@workflow("waiting.typed.event")
def typed_event(subject: str, seconds: float) -> str:
    with _bodys_end():
        return f"saw {DBOS.get_event(subject, 'key', timeout_seconds=_LONG)}"


@workflow("waiting.typed.listener")
def typed_listener(subject: str) -> str:
    return f"got {DBOS.recv('topic', timeout_seconds=_LONG)}"


@workflow("waiting.typed.child")
def typed_child(subject: str, seconds: float) -> str:
    with _bodys_end():
        return f"child {typed_listener.enqueue(subject).result()}"


@workflow("waiting.typed.quick")
def typed_quick() -> str:
    return "quick"


@workflow("waiting.typed.queue")
def typed_queue(subject: str, seconds: float) -> str:
    with _bodys_end():
        return f"queued {typed_quick.enqueue().result()}"


# --- steps that hang, and effects that must not be undone ---


@step("waiting.endless", timeout_seconds=2.0)
def endless() -> None:
    """Never returns."""
    while True:
        pass


@workflow("waiting.typed.endless")
def typed_endless() -> None:
    endless()


@step("waiting.stuck")
def stuck(seconds: float) -> None:
    """Returns late, and cannot be interrupted."""
    time.sleep(seconds)


@workflow("waiting.typed.stuck")
def typed_stuck(seconds: float) -> str:
    stuck(seconds)
    return "unstuck"


@DBOS.step(name="waiting.charge")
def charge(seconds: float) -> str:
    time.sleep(seconds)
    return "charged"


@DBOS.step(name="waiting.refund")
def refund(why: str) -> str:
    return f"refunded: {why}"


@DBOS.workflow(name="waiting.saga", max_recovery_attempts=None)
def saga(times: int) -> str:
    """Undoes its effects at any error. An outage is not an error."""
    for _ in range(times):
        try:
            charge(0.2)
        except Exception as error:
            return refund(repr(error))
    return "charged"


@DBOS.step(name="waiting.fall")
def fall() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@workflow("waiting.typed.poison")
def typed_poison() -> None:
    fall()


# --- helpers of the tests ---


@DBOS.workflow(name="waiting.teller", max_recovery_attempts=None)
def teller(text: str) -> None:
    """Sets the event that others wait for."""
    DBOS.set_event("key", text)


@DBOS.step(name="waiting.block")
def block(times: int) -> None:
    """Holds the interpreter's lock for half an hour, in the first ``times`` runs."""
    _OUT.mkdir(parents=True, exist_ok=True)
    for number in range(times):
        with suppress(FileExistsError):
            (_OUT / f"{DBOS.workflow_id}-blocked-{number}").touch(exist_ok=False)
            ctypes.PyDLL(None).usleep(1_800_000_000)


@DBOS.workflow(name="waiting.blocker", max_recovery_attempts=None)
def blocker(times: int) -> str:
    block(times)
    return "unblocked"


register(
    Queue(LEAVES, [typed_sleep, typed_recv, typed_event], at_once=50),
    Queue(PARENTS, [typed_child, typed_queue], at_once=50, parents=True),
    Queue(CHILDREN, [typed_listener], at_once=50),
    Queue(FULL, [typed_quick], at_once=1),
    Queue(ALONE, [typed_stuck], at_once=1),
    Queue(RUNNING, [typed_endless, typed_poison], at_once=20),
)
