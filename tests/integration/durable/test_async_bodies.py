"""Async workflows and steps of a user-defined module: attempts, types, errors, children, replays."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dbos import SetWorkflowID

from holdfast.console.labels import label
from holdfast.durable import registry
from tests.integration.durable.test_own import ended
from tests.support.database import Database
from tests.support.engines import client, worker_process
from tests.support.own import forgotten

MODULE = """
import asyncio
from dataclasses import dataclass
from holdfast import Queue, attempt, register, step, workflow

TRIES = []


class Lost(Exception):
    pass


@dataclass(frozen=True)
class Parcel:
    kg: int
    size: tuple[int, int]


@step(
    "a.weigh", attempts=3, wait_seconds=0, errors=[Lost],
    should_retry=lambda error: isinstance(error, OSError),
)
async def weigh(kg: int) -> Parcel:
    await asyncio.sleep(0)
    TRIES.append((kg, attempt()))
    if kg == 0:
        raise ValueError("no weight")
    if kg < 0:
        raise Lost("nowhere")
    if attempt() < 3:
        raise OSError("busy")
    return Parcel(kg, (1, 2))


@step("a.tired", attempts=2, wait_seconds=0)
async def tired() -> str:
    raise OSError(f"attempt {attempt()}")


@step("a.outer", attempts=3, wait_seconds=0)
async def outer() -> int:
    try:
        await weigh(-2)
    except Lost:
        if attempt() < 2:
            raise OSError("the inner step's error is final, this one is not") from None
    return attempt()


@workflow("a.parcel", label="parcel", label_with_input="parcel of {0} kg")
async def parcel(kg: int) -> Parcel:
    return await weigh(kg)


@workflow("a.truck")
async def truck(weights: list[int]) -> list[str]:
    told = []
    for child in [await parcel.enqueue_async(kg) for kg in weights]:
        loaded = await child.result_async()
        told.append(f"{type(loaded).__name__} {loaded.kg} {type(loaded.size).__name__}")
    try:
        await weigh(-1)
    except Lost as error:
        told.append(f"{type(error).__name__} {error}")
    return told


@workflow("a.plain_truck")
def plain_truck(kg: int) -> str:
    return type(parcel.enqueue(kg).result()).__name__


@workflow("a.nested")
async def nested() -> int:
    return await outer()


@workflow("a.give_up")
async def give_up() -> str:
    return await tired()


register(
    Queue("a-parcels", [parcel, nested, give_up]),
    Queue("a-trucks", [truck, plain_truck], parents=True),
)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "own_parcels.py").write_text(MODULE, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with forgotten():
        yield lambda: sys.modules["own_parcels"]
    sys.modules.pop("own_parcels", None)


def test_async_bodies_are_as_durable_as_plain_ones(database: Database, module: Any) -> None:
    outside = client(database, role="api")
    with worker_process(database, modules="own_parcels") as process:
        version = process.identity.version

        def start(name: str, *args: Any) -> str:
            queue = registry.startable()[name].queue
            assert queue is not None
            options = {"workflow_name": name, "queue_name": queue.name, "app_version": version}
            return outside.enqueue(options, *args).workflow_id  # type: ignore[arg-type]

        truck = start("a.truck", [3, 4])
        told = ["Parcel 3 tuple", "Parcel 4 tuple", "Lost nowhere"]
        assert ended(outside, truck).output == told
        tries = module().TRIES
        assert sorted(tries) == [(-1, 1), *((kg, n) for kg in (3, 4) for n in (1, 2, 3))]

        # A replay reads the same types and the same error, and runs no body.
        with SetWorkflowID("again"):
            outside.fork_workflow(truck, 6, application_version=version, queue_name="a-trucks")
        assert ended(outside, "again").output == told
        assert len(tries) == 7

        # After an error that `should_retry` refuses, and after the last attempt, the error itself is stored.
        refused = ended(outside, start("a.parcel", 0), "ERROR")
        assert (refused.error.name, str(refused.error)) == ("ValueError", "no weight")
        assert tries.count((0, 1)) == 1
        assert (0, 2) not in tries
        given_up = ended(outside, start("a.give_up"), "ERROR")
        assert (given_up.error.name, str(given_up.error)) == ("OSError", "attempt 2")

        assert ended(outside, start("a.nested")).output == 2, "a step inside a step has no say in its retries"
        assert ended(outside, start("a.plain_truck", 5)).output == "Parcel"
        assert label("a.parcel", None, '{"positionalArgs": [7]}') == "parcel of 7 kg"
    outside.destroy()


def test_outside_a_workflow_they_are_plain_coroutines(module: Any) -> None:
    registry.load(["own_parcels"])
    with pytest.raises(OSError, match="busy"):
        asyncio.run(module().parcel(3))
    assert module().TRIES == [(3, 1)]
