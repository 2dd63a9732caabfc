"""Every end of a step or a workflow's body is an outcome: ERROR with type and text, and the body ran once."""

from __future__ import annotations

import ast
import asyncio
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import dbos._core
import dbos._serialization
import pytest
from dbos import DBOS, SetWorkflowID
from dbos._event_loop import BackgroundEventLoop

from holdfast.dbos_adapter.outcomes import SturdyLoop
from tests.support.database import Database, wait_until
from tests.support.engines import Launched, client, launched

QUEUE = "outcomes-q"
RUNS: Counter[str] = Counter()


class Odd(BaseException):
    """As trio.Cancelled and others are: no ``Exception``."""


class MuteError(Exception):
    """Cannot say what it is."""

    def __str__(self) -> str:
        raise Odd("no text")


class HoldingError(Exception):
    """Carries what cannot be stored."""

    def __init__(self, data: Any) -> None:
        super().__init__("holding")
        self.data = data
        self.code = 10**5000


def _raise(error: BaseException) -> NoReturn:
    raise error


def _endless(depth: int = 0) -> int:
    return _endless(depth + 1) + 1


ENDS: dict[str, tuple[Callable[[], Any], str, str]] = {
    "exit": (lambda: sys.exit(3), "SystemExit", "3"),
    "exit without a code": (sys.exit, "SystemExit", "SystemExit()"),
    "interrupt": (lambda: _raise(KeyboardInterrupt("stop")), "KeyboardInterrupt", "stop"),
    "generator": (lambda: _raise(GeneratorExit("left")), "GeneratorExit", "left"),
    "cancelled": (lambda: _raise(asyncio.CancelledError("by itself")), "CancelledError", "by itself"),
    "odd": (lambda: _raise(Odd("own")), "Odd", "own"),
    "group": (lambda: _raise(BaseExceptionGroup("two", [Odd("a")])), "BaseExceptionGroup", "Odd: a"),
    "exceptions": (lambda: _raise(ExceptionGroup("two", [ValueError("b")])), "ExceptionGroup", "Error: b"),
    "recursion": (_endless, "RecursionError", "recursion"),
    "memory": (lambda: _raise(MemoryError("none left")), "MemoryError", "none left"),
    "stop": (lambda: _raise(StopIteration(1)), "RuntimeError", "StopIteration"),
    "mute": (lambda: _raise(MuteError()), "MuteError", "MuteError"),
    "holding": (lambda: _raise(HoldingError({1: object()})), "HoldingError", "holding"),
    "odd text": (lambda: _raise(ValueError("a\x00b\udce9")), "ValueError", "a\x00b\udce9"),
}  # fmt: skip


def _end(kind: str) -> Any:
    RUNS[str(DBOS.workflow_id)] += 1
    return ENDS[kind][0]()


@DBOS.step(name="outcomes.step")
def _step(kind: str) -> Any:
    return _end(kind)


@DBOS.step(name="outcomes.step_async")
async def _step_async(kind: str) -> Any:
    return _end(kind)


@DBOS.workflow(name="outcomes.sync", max_recovery_attempts=None)
def _sync(kind: str, in_step: bool) -> Any:
    return _step(kind) if in_step else _end(kind)


@DBOS.workflow(name="outcomes.async", max_recovery_attempts=None)
async def _async(kind: str, in_step: bool) -> Any:
    return await _step_async(kind) if in_step else _end(kind)


@DBOS.step(name="outcomes.again", retries_allowed=True, max_attempts=3, interval_seconds=0)
def _again(kind: str) -> Any:
    return _end(kind)


@DBOS.step(name="outcomes.again_async", retries_allowed=True, max_attempts=3, interval_seconds=0)
async def _again_async(kind: str) -> Any:
    return _end(kind)


@DBOS.workflow(name="outcomes.repeated", max_recovery_attempts=None)
def _repeated(kind: str) -> Any:
    return _again(kind)


@DBOS.workflow(name="outcomes.repeated_async", max_recovery_attempts=None)
async def _repeated_async(kind: str) -> Any:
    return await _again_async(kind)


async def _leave(kind: str) -> None:
    await asyncio.sleep(0)
    if kind == "exit of a task":
        sys.exit(4)
    if kind == "cancels itself":
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
    await asyncio.sleep(30)


@DBOS.step(name="outcomes.tasks_step")
async def _tasks_step(kind: str) -> None:
    await _tasks_of(kind)


async def _tasks_of(kind: str) -> None:
    RUNS[str(DBOS.workflow_id)] += 1
    if kind == "cancels itself":
        await _leave(kind)
    task = asyncio.create_task(_leave(kind))
    if kind == "cancels its task":
        task.cancel()
    await task


@DBOS.workflow(name="outcomes.tasks", max_recovery_attempts=None)
async def _tasks(kind: str, in_step: bool) -> None:
    await (_tasks_step(kind) if in_step else _tasks_of(kind))


@DBOS.workflow(name="outcomes.slow", max_recovery_attempts=None)
async def _slow() -> None:
    RUNS[str(DBOS.workflow_id)] += 1
    await asyncio.sleep(30)


@DBOS.workflow(name="outcomes.impatient", max_recovery_attempts=None)
async def _impatient() -> str:
    try:
        async with asyncio.timeout(0.3):
            with SetWorkflowID("the-child"):
                await _slow()
    except TimeoutError:
        return "went on"
    return "never"


@DBOS.workflow(name="outcomes.sees", max_recovery_attempts=None)
def _sees() -> list[str]:
    try:
        _step("exit")
    except Exception as error:
        seen = [type(error).__name__, str(getattr(error, "name", "")), str(error)]
    _step_ok()
    return seen


@DBOS.step(name="outcomes.ok")
def _step_ok() -> str:
    return "ok"


@pytest.fixture(scope="module")
def app(server: Any) -> Iterator[Launched]:
    with Database.lent(server) as database, launched(database, queues=[QUEUE]) as made:
        made.queue(QUEUE, worker_concurrency=16)
        yield made


def outcome(app: Launched, workflow_id: str) -> Any:
    app.waker.wake(QUEUE)
    wait_until(
        lambda: app.status(workflow_id) not in {"ENQUEUED", "PENDING"}, f"{workflow_id} ends", seconds=10
    )
    [row] = app.client.list_workflows(workflow_ids=[workflow_id])
    return row


def is_recorded(app: Launched, workflow_id: str, kind: str, name: str, text: str) -> None:
    row = outcome(app, workflow_id)
    assert row.status == "ERROR"
    assert row.error.name == name
    assert text in str(row.error)
    assert RUNS[workflow_id] == 1, "the body ran once"
    for step in app.client.list_workflow_steps(workflow_id):
        assert (step["error"].name, text in str(step["error"])) == (name, True)


@pytest.mark.parametrize("in_step", [True, False], ids=["step", "body"])
@pytest.mark.parametrize("name", ["outcomes.sync", "outcomes.async"])
@pytest.mark.parametrize("kind", ENDS)
def test_every_end_is_an_outcome(app: Launched, kind: str, name: str, in_step: bool) -> None:
    workflow_id = f"{name}-{kind}-{in_step}"
    app.enqueue(name, kind, in_step, queue=QUEUE, workflow_id=workflow_id)
    is_recorded(app, workflow_id, kind, *ENDS[kind][1:])
    if in_step:
        assert len(app.client.list_workflow_steps(workflow_id)) == 1


@pytest.mark.parametrize("kind", ["exit", "odd", "stop"])
def test_also_where_it_is_started_directly_or_run_inline(app: Launched, kind: str) -> None:
    with SetWorkflowID(f"direct-{kind}"), pytest.raises(Exception, match=ENDS[kind][2]):
        DBOS.start_workflow(_sync, kind, in_step=False).get_result()
    is_recorded(app, f"direct-{kind}", kind, *ENDS[kind][1:])
    with SetWorkflowID(f"inline-{kind}"), pytest.raises(Exception, match=ENDS[kind][2]):
        _sync(kind, in_step=True)
    is_recorded(app, f"inline-{kind}", kind, *ENDS[kind][1:])


@pytest.mark.parametrize("name", ["outcomes.repeated", "outcomes.repeated_async"])
@pytest.mark.parametrize("kind", ["exit", "odd"])
def test_a_step_that_left_is_not_tried_again(app: Launched, name: str, kind: str) -> None:
    workflow_id = f"{name}-{kind}"
    app.enqueue(name, kind, queue=QUEUE, workflow_id=workflow_id)
    is_recorded(app, workflow_id, kind, *ENDS[kind][1:])


@pytest.mark.parametrize("in_step", [True, False], ids=["step", "body"])
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("exit of a task", "SystemExit"),
        ("cancels its task", "CancelledError"),
        ("cancels itself", "CancelledError"),
    ],
)
def test_tasks_of_the_users_own(app: Launched, kind: str, error: str, in_step: bool) -> None:
    workflow_id = f"{kind}-{in_step}"
    app.enqueue("outcomes.tasks", kind, in_step, queue=QUEUE, workflow_id=workflow_id)
    row = outcome(app, workflow_id)
    assert (row.status, row.error.name) == ("ERROR", error)
    assert RUNS[workflow_id] == 1
    assert workflow_id not in app.engine.active(), "its slot is free"
    # The loop that all async workflows share goes on.
    app.enqueue("outcomes.async", "memory", False, queue=QUEUE, workflow_id=f"{workflow_id}-next")
    is_recorded(app, f"{workflow_id}-next", "memory", *ENDS["memory"][1:])


def test_a_timeout_around_a_child_stays_a_timeout(app: Launched) -> None:
    app.enqueue("outcomes.impatient", queue=QUEUE, workflow_id="impatient")
    assert outcome(app, "impatient").output == "went on"
    child = outcome(app, "the-child")
    assert (child.status, child.error.name) == ("ERROR", "CancelledError")


def test_a_replay_sees_what_the_first_run_saw(app: Launched) -> None:
    app.enqueue("outcomes.sees", queue=QUEUE, workflow_id="sees")
    seen = ["PortableWorkflowError", "SystemExit", "3"]
    assert outcome(app, "sees").output == seen
    forking = client(app.database, role="api")
    with SetWorkflowID("sees-again"):
        forking.fork_workflow("sees", 2, application_version=app.identity.version, queue_name=QUEUE)
    forking.destroy()
    assert outcome(app, "sees-again").output == seen
    assert RUNS["sees"] == 1
    assert RUNS["sees-again"] == 0


# --- what it rests on ---------------------------------------------------------------------------------

_LOOK = "look at holdfast/dbos_adapter/outcomes.py"
_CORE = Path(dbos._core.__file__).read_text("utf-8")


def _function(name: str) -> ast.FunctionDef | ast.AsyncFunctionDef:
    """A function as DBOS has it, whatever replaced it here."""
    [found] = [
        node
        for node in ast.parse(_CORE).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name
    ]
    return found


def _parameters(name: str) -> tuple[list[str], list[str]]:
    """By position, and by name only."""
    found = _function(name).args
    return [each.arg for each in found.args], [each.arg for each in found.kwonlyargs]


def test_every_step_runs_through_one_function() -> None:
    by_position, by_name = _parameters("invoke_step")
    assert by_position == ["dbos", "step_ctx", "func", "args", "kwargs"], _LOOK
    assert "should_retry" in by_name, _LOOK
    for caller in ("run_step", "run_step_async", "decorate_step"):
        assert "invoke_step(" in ast.unparse(_function(caller)), _LOOK


def test_every_workflows_body_runs_through_one_function() -> None:
    assert _parameters("_dropping_datasource_checkpoints") == (["dbos", "func"], []), _LOOK
    for caller in ("_execute_workflow_wthread", "_execute_workflow_async", "workflow_wrapper"):
        assert "_dropping_datasource_checkpoints(" in ast.unparse(_function(caller)), _LOOK


def test_what_is_stored_of_an_error_is_made_in_one_place() -> None:
    source = inspect.getsource(dbos._serialization.serialize_exception)
    assert "exception_to_workflow_error_data(value)" in source, "look at holdfast/dbos_adapter/serializer.py"
    assert list(inspect.signature(dbos._core._serialize_exception_for_persistence).parameters) == [
        "error",
        "serialization",
        "serializer",
    ], _LOOK


def test_the_loop_of_all_async_workflows(app: Launched) -> None:
    loop = app.dbos._background_event_loop._loop
    assert isinstance(loop, SturdyLoop), _LOOK
    assert not loop.ends
    app.enqueue("outcomes.slow", queue=QUEUE, workflow_id="slow")
    app.waker.wake(QUEUE)
    wait_until(lambda: "slow" in app.engine.active(), "it runs")
    ending = asyncio.run_coroutine_threadsafe(_ends_within(loop), loop)
    assert ending.result(5) == (False, True), _LOOK


async def _ends_within(loop: SturdyLoop) -> tuple[bool, bool]:
    """Before and after the loop is asked to end, which is taken back before it does anything."""
    before = loop.ends
    task = asyncio.create_task(BackgroundEventLoop._shutdown(SimpleNamespace(_loop=loop)))  # type: ignore[arg-type]
    after = loop.ends
    task.cancel()
    return before, after


def test_the_loops_own_end_is_no_outcome(app: Launched) -> None:
    """The last one here: async workflows do not run any more."""
    app.enqueue("outcomes.slow", queue=QUEUE, workflow_id="cut off")
    app.waker.wake(QUEUE)
    # Active from its dispatch on, which is before its task begins.
    wait_until(lambda: RUNS["cut off"], "it runs")
    app.dbos._background_event_loop.stop()
    wait_until(lambda: "cut off" not in app.engine.active(), "it is cut off")
    assert app.status("cut off") == "PENDING"
