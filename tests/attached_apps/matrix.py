"""Every way to write, start and use a workflow with DBOS's public API. It does not know Holdfast.

One cell is {sync, async} × {function, instance, static} × a way to start × a primitive. Each workflow
makes the step "before", its primitive, and the step "after". With ``HOLD`` (before, during, after) each
workflow that gets to that point blocks there, or waits in its primitive: the process is to be killed then.
``MATRIX_LOG`` is a file that gets one line for each run of a step's body. Orders arrive on the standard
input, one JSON array a line.
"""

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from dbos import (
    DBOS,
    AsyncSQLAlchemyDatasource,
    DBOSConfig,
    DBOSConfiguredInstance,
    Debouncer,
    SetEnqueueOptions,
    SetWorkflowID,
    SQLAlchemyDatasource,
)

HOLD = os.environ.get("HOLD", "")
NAP_SECONDS = float(os.environ.get("NAP_SECONDS", "0.2"))
URL = os.environ["MATRIX_DATABASE_URL"]

config: DBOSConfig = {"name": "matrix", "system_database_url": URL, "log_level": "WARNING"}
DBOS(config=config)

_attempts: dict[str, int] = {}


def note(point: str, cell: str) -> None:
    line = json.dumps([time.time(), os.getpid(), point, cell, DBOS.workflow_id]) + "\n"
    with Path(os.environ["MATRIX_LOG"]).open("a") as file:
        file.write(line)


class Mark:
    """A value that only a pickle can store."""

    def __init__(self, text: str) -> None:
        self.text = text


def hold(point: str) -> None:
    if point == HOLD:
        threading.Event().wait()


async def hold_async(point: str) -> None:
    if point == HOLD:
        await asyncio.Event().wait()


def is_past_hold(point: str) -> bool:
    """Whether a nap was over before the process ended: the workflow must not get further here."""
    return (HOLD, point) == ("during", "after")


@DBOS.step()
def mark(point: str, cell: str) -> Mark:
    if is_past_hold(point):
        hold(HOLD)
    note(point, cell)
    hold(point)
    return Mark(point)


@DBOS.step()
async def mark_async(point: str, cell: str) -> Mark:
    if is_past_hold(point):
        await hold_async(HOLD)
    note(point, cell)
    await hold_async(point)
    return Mark(point)


def _fail_once(cell: str) -> None:
    key = f"{cell} {DBOS.workflow_id}"
    _attempts[key] = _attempts.get(key, 0) + 1
    if _attempts[key] == 1:
        raise ConnectionError("the first attempt fails")


@DBOS.step(retries_allowed=True, max_attempts=3, interval_seconds=0.05)
def retried(cell: str) -> str:
    _fail_once(cell)
    note("during", cell)
    hold("during")
    return "retried"


@DBOS.step(retries_allowed=True, max_attempts=3, interval_seconds=0.05)
async def retried_async(cell: str) -> str:
    _fail_once(cell)
    note("during", cell)
    await hold_async("during")
    return "retried"


# --- transactions of a datasource ----------------------------------------------------------------

_INSERT = sa.text("INSERT INTO matrix_effects (cell, workflow_id) VALUES (:cell, :workflow_id)")
datasource = SQLAlchemyDatasource.create(URL, engine_kwargs={"pool_size": 60})
async_datasource = asyncio.run(
    AsyncSQLAlchemyDatasource.create(URL, engine_kwargs={"poolclass": sa.NullPool})
)


@datasource.transaction
def insert(cell: str) -> str:
    datasource.sql_session().execute(_INSERT, {"cell": cell, "workflow_id": DBOS.workflow_id})
    note("during", cell)
    hold("during")
    return "inserted"


@async_datasource.transaction
async def insert_async(cell: str) -> str:
    await async_datasource.sql_session().execute(_INSERT, {"cell": cell, "workflow_id": DBOS.workflow_id})
    note("during", cell)
    await hold_async("during")
    return "inserted"


# --- primitives ------------------------------------------------------------------------------------


def partner_of(cell: str) -> str:
    return f"partner {cell} {DBOS.workflow_id}"


def step_primitive(cell: str) -> Any:
    return mark("during", cell).text


def sleep_primitive(cell: str) -> Any:
    note("during", cell)
    DBOS.sleep(NAP_SECONDS)
    return "slept"


def message_primitive(cell: str) -> Any:
    DBOS.send(str(DBOS.workflow_id), "to myself", "own")
    own = DBOS.recv("own", timeout_seconds=600)
    note("during", cell)
    return [own, DBOS.recv("outside", timeout_seconds=600)]


def event_primitive(cell: str) -> Any:
    DBOS.set_event("mine", cell)
    note("during", cell)
    return DBOS.get_event(partner_of(cell), "answer", timeout_seconds=600)


def stream_primitive(cell: str) -> Any:
    DBOS.write_stream("numbers", 1)
    mark("during", cell)
    DBOS.write_stream("numbers", 2)
    DBOS.close_stream("numbers")
    return "written"


def patch_primitive(cell: str) -> Any:
    is_new = DBOS.patch("matrix")
    mark("during", cell)
    return [is_new, DBOS.patch("matrix")]


async def step_primitive_async(cell: str) -> Any:
    return (await mark_async("during", cell)).text


async def sleep_primitive_async(cell: str) -> Any:
    note("during", cell)
    await DBOS.sleep_async(NAP_SECONDS)
    return "slept"


async def message_primitive_async(cell: str) -> Any:
    await DBOS.send_async(str(DBOS.workflow_id), "to myself", "own")
    own = await DBOS.recv_async("own", timeout_seconds=600)
    note("during", cell)
    return [own, await DBOS.recv_async("outside", timeout_seconds=600)]


async def event_primitive_async(cell: str) -> Any:
    await DBOS.set_event_async("mine", cell)
    note("during", cell)
    return await DBOS.get_event_async(partner_of(cell), "answer", timeout_seconds=600)


async def stream_primitive_async(cell: str) -> Any:
    await DBOS.write_stream_async("numbers", 1)
    await mark_async("during", cell)
    await DBOS.write_stream_async("numbers", 2)
    await DBOS.close_stream_async("numbers")
    return "written"


async def patch_primitive_async(cell: str) -> Any:
    is_new = await DBOS.patch_async("matrix")
    await mark_async("during", cell)
    return [is_new, await DBOS.patch_async("matrix")]


async def gather_primitive_async(cell: str) -> Any:
    marks = await asyncio.gather(*(mark_async("during", f"{cell} {number}") for number in range(3)))
    return [each.text for each in marks]


SYNC: dict[str, Callable[[str], Any]] = {
    "step": step_primitive,
    "retried": retried,
    "sleep": sleep_primitive,
    "message": message_primitive,
    "event": event_primitive,
    "stream": stream_primitive,
    "transaction": insert,
    "patch": patch_primitive,
}
ASYNC: dict[str, Callable[[str], Any]] = {
    "step": step_primitive_async,
    "retried": retried_async,
    "sleep": sleep_primitive_async,
    "message": message_primitive_async,
    "event": event_primitive_async,
    "stream": stream_primitive_async,
    "transaction": insert_async,
    "patch": patch_primitive_async,
    "gather": gather_primitive_async,
}

# --- workflows: a schedule calls them with a time and its context, everybody else with the cell ------


def sync_body(primitive: Callable[[str], Any]) -> Callable[..., Any]:
    def body(cell_or_time: Any, context: str | None = None) -> Any:
        cell = cell_or_time if context is None else context
        before = mark("before", cell)
        value = primitive(cell)
        return [before.text, value, mark("after", cell).text]

    return body


def async_body(primitive: Callable[[str], Any]) -> Callable[..., Any]:
    async def body(cell_or_time: Any, context: str | None = None) -> Any:
        cell = cell_or_time if context is None else context
        before = await mark_async("before", cell)
        value = await primitive(cell)
        return [before.text, value, (await mark_async("after", cell)).text]

    return body


def method(body: Callable[..., Any], *, is_async: bool) -> Callable[..., Any]:
    """Returns the body as a method, which ignores its instance."""
    if is_async:

        async def called(self: Any, *arguments: Any) -> Any:
            return await body(*arguments)

    else:

        def called(self: Any, *arguments: Any) -> Any:
            return body(*arguments)

    return called


def named(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    function.__name__ = name
    function.__qualname__ = name
    return function


FUNCTIONS: dict[str, Any] = {}
_namespace: dict[str, Any] = {}
for _mode, _primitives, _body_of in (("sync", SYNC, sync_body), ("async", ASYNC, async_body)):
    for _name, _primitive in _primitives.items():
        _title = f"{_mode}_{_name}"
        FUNCTIONS[f"{_mode} function {_name}"] = DBOS.workflow()(named(_body_of(_primitive), _title))
        _called = method(_body_of(_primitive), is_async=_mode == "async")
        _namespace[f"instance_{_title}"] = DBOS.workflow()(named(_called, f"Shop.instance_{_title}"))
        _static = named(_body_of(_primitive), f"Shop.static_{_title}")
        _namespace[f"static_{_title}"] = staticmethod(DBOS.workflow()(_static))


def _init(self: Any, name: str) -> None:
    DBOSConfiguredInstance.__init__(self, config_name=name)


Shop: Any = DBOS.dbos_class()(type("Shop", (DBOSConfiguredInstance,), {**_namespace, "__init__": _init}))
shop = Shop("first")
for _title in list(_namespace):
    _scope, _mode, _name = _title.split("_")
    FUNCTIONS[f"{_mode} {_scope} {_name}"] = getattr(shop if _scope == "instance" else Shop, _title)


@DBOS.workflow()
def parent(what: str, cell: str) -> Any:
    return DBOS.start_workflow(FUNCTIONS[what], cell).get_result()


@DBOS.workflow()
async def parent_async(what: str, cell: str) -> Any:
    return await (await DBOS.start_workflow_async(FUNCTIONS[what], cell)).get_result()


@DBOS.workflow()
def partner(cell: str) -> None:
    DBOS.set_event("answer", cell)


# --- ways to start -----------------------------------------------------------------------------------

QUEUES: dict[str, dict[str, Any]] = {
    "queued": {},
    "worker-limit": {"worker_concurrency": 500},
    "global-limit": {"global_concurrency": 500},
    "rate-limit": {"limiter": {"limit": 1000, "period": 1.0}},
    "priority": {},
    "partition": {"partition_concurrency": 5},
    "deduplication": {},
    "delay": {},
}


def options(start: str, cell: str) -> dict[str, Any]:
    return {
        "priority": {"priority": 7},
        "partition": {"queue_partition_key": f"key {cell}"},
        "deduplication": {"deduplication_id": f"only {cell}"},
        "delay": {"delay_seconds": 0.3},
    }.get(start, {})


def obey(order: list[str]) -> None:
    match order:
        case ["message", workflow_id]:
            DBOS.send(workflow_id, "from outside", "outside")
        case ["event", cell, workflow_id]:
            with SetWorkflowID(f"partner {cell} {workflow_id}"):
                DBOS.start_workflow(partner, cell)
        case _:
            start_cell(*order)


def start_cell(mode: str, scope: str, start: str, primitive: str) -> None:
    cell = f"{mode} {scope} {start} {primitive}"
    what = f"{mode} {scope} {primitive}"
    function = FUNCTIONS[what]
    if start == "scheduled":
        name = cell.replace(" ", "-")
        DBOS.create_schedule(schedule_name=name, workflow_fn=function, schedule="0 0 1 1 *", context=cell)
        DBOS.trigger_schedule(name)
        return
    with SetWorkflowID(cell):
        if start in QUEUES:
            with SetEnqueueOptions(**options(start, cell)):
                DBOS.enqueue_workflow(start, function, cell)
        elif start == "direct":
            DBOS.start_workflow(function, cell)
        elif start == "child":
            DBOS.start_workflow(parent if mode == "sync" else parent_async, what, cell)
        elif start == "debounced":
            Debouncer.create(function).debounce(cell, 0.1, cell)
        else:
            raise ValueError(start)


def main() -> None:
    with datasource.engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE IF NOT EXISTS matrix_effects (cell text, workflow_id text)"))
    DBOS.launch()
    for name, limits in QUEUES.items():
        DBOS.register_queue(name, **limits)
    print("ready", flush=True)
    for line in sys.stdin:
        for order in json.loads(line):
            obey(order)
        print("obeyed", flush=True)


if __name__ == "__main__":
    main()
