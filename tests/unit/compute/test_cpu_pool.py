"""Child processes that can be killed: cancel, death, close, fairness; none outlives its parent."""

import asyncio
import logging
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.compute import cpu_pool
from holdfast.compute.cpu_pool import CpuPool
from holdfast.dbos_adapter.cancelling import Cancellation
from holdfast.errors import CpuCancelled, CpuChildDied, CpuPoolClosed, InvalidRequest
from services.worker.fibonacci import rule as fibonacci

ROOT = Path(__file__).parents[3]
WAIT_SECONDS = 40.0


# What children run. They import this module by name.


def pid_and(value: int) -> tuple[int, int]:
    return value, os.getpid()


def note_and_spin(path: str) -> None:
    Path(path).touch()
    while True:
        pass


def append(path: str, text: str) -> None:
    with Path(path).open("a") as file:
        file.write(text)


def hold(path: str) -> int:
    while not Path(path).exists():
        time.sleep(0.002)
    return os.getpid()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    raise SystemExit(3)


def refuse(field: str) -> None:
    raise InvalidRequest("not this", field=field)


class UnpicklableError(Exception):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def raise_unpicklable() -> None:
    raise UnpicklableError("a", "b")


def stop_iteration() -> None:
    raise StopIteration


def return_unpicklable() -> object:
    return lambda: None


def size(data: bytes) -> bytes:
    return data + data


def loaded() -> list[str]:
    return sorted(sys.modules)


def policy() -> int:
    return os.sched_getscheduler(0)


# Helpers


def wait_for(condition: Callable[[], object], seconds: float = WAIT_SECONDS) -> float:
    """Seconds until the condition held."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "the condition never held"
        time.sleep(0.002)
    return time.monotonic() - began


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def pool() -> Iterator[CpuPool]:
    pool = CpuPool(2)
    assert pool.wait_ready(WAIT_SECONDS)
    yield pool
    pids = pool.pids()
    pool.close()
    wait_for(lambda: not any(map(alive, pids)))


async def until(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(wait_for, condition)


# Running


def test_fifty_tasks_over_two_slots(pool: CpuPool) -> None:
    async def main() -> None:
        results = await asyncio.gather(*(pool.run(fibonacci.summary, n, "recursive") for n in range(20)))
        results += await asyncio.gather(*(pool.run(fibonacci.summary, n, "doubling") for n in range(30)))
        expected = [fibonacci.doubling(n) for n in [*range(20), *range(30)]]
        assert [result.value["result"] for result in results] == [str(number) for number in expected]
        assert {result.pid for result in results} <= set(pool.pids())
        assert all(result.seconds >= 0 for result in results)

    asyncio.run(main())
    assert pool.states() == {"idle": 2, "busy": 0, "starting": 0}


def test_slots_compute_at_the_same_time(pool: CpuPool, tmp_path: Path) -> None:
    async def main() -> None:
        gate = tmp_path / "gate"
        tasks = [asyncio.create_task(pool.run(hold, str(gate))) for _ in range(2)]
        await until(lambda: pool.states()["busy"] == 2)
        gate.touch()
        assert len({(await task).value for task in tasks}) == 2

    asyncio.run(main())


def test_two_event_loops_and_plain_threads_share_a_pool(pool: CpuPool) -> None:
    numbers: list[int] = []

    async def some(start: int) -> None:
        results = await asyncio.gather(*(pool.run(pid_and, start + n) for n in range(10)))
        numbers.extend(result.value[0] for result in results)

    threads = [threading.Thread(target=lambda start=start: asyncio.run(some(start))) for start in (0, 10)]
    for thread in threads:
        thread.start()
    numbers.extend(pool.run_sync(pid_and, n).value[0] for n in range(20, 30))
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(30))


def test_first_come_first_served(tmp_path: Path) -> None:
    pool = CpuPool(1)
    journal, gate = tmp_path / "journal", tmp_path / "gate"

    async def main() -> None:
        first = asyncio.create_task(pool.run(hold, str(gate)))
        await until(lambda: pool.states()["busy"] == 1)
        rest = [asyncio.create_task(pool.run(append, str(journal), f"{n} ")) for n in range(20)]
        await asyncio.sleep(0)
        rest[5].cancel()
        gate.touch()
        await asyncio.gather(first, *rest, return_exceptions=True)
        assert rest[5].cancelled()

    asyncio.run(main())
    pool.close()
    assert journal.read_text().split() == [str(n) for n in range(20) if n != 5]


def test_a_megabyte_travels_both_ways(pool: CpuPool) -> None:
    data = os.urandom(1 << 20)
    assert pool.run_sync(size, data).value == data + data


def test_children_are_light_and_polite(pool: CpuPool) -> None:
    names = pool.run_sync(loaded).value
    assert "services.worker.fibonacci.rule" in names
    heavy = {"dbos", "fastapi", "asyncio", "multiprocessing", "pydantic", "sqlalchemy", "logging"}
    # This very module was imported too, to run its function; what it needs is not the pool's doing.
    own = CpuPool(1)
    lean = set(own.run_sync(eval, "sorted(__import__('sys').modules)").value)
    own.close()
    assert not lean & heavy
    assert pool.run_sync(policy).value == os.SCHED_IDLE


# Exceptions


def test_exceptions_travel_as_themselves(pool: CpuPool) -> None:
    with pytest.raises(InvalidRequest, match="not this") as caught:
        asyncio.run(pool.run(refuse, "n"))
    assert caught.value.field == "n"
    assert "in refuse" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("function", "kind", "text"),
    [
        (raise_unpicklable, RuntimeError, "UnpicklableError: ab"),
        (stop_iteration, RuntimeError, "StopIteration"),
        (return_unpicklable, Exception, "pickle"),
    ],
)
def test_what_cannot_travel_is_reported(
    pool: CpuPool, function: Any, kind: type[Exception], text: str
) -> None:
    pids = pool.pids()
    with pytest.raises(kind, match=text):
        asyncio.run(asyncio.wait_for(pool.run(function), WAIT_SECONDS))
    assert pool.pids() == pids


def test_arguments_that_cannot_travel_raise_at_once(pool: CpuPool) -> None:
    with pytest.raises((pickle.PicklingError, AttributeError)):
        asyncio.run(pool.run(lambda: 1))
    assert pool.states()["idle"] == 2


# Cancelling


def test_cancel_kills_the_child_and_the_slot_comes_back(pool: CpuPool, tmp_path: Path) -> None:
    async def main() -> None:
        started = tmp_path / "started"
        before = pool.pids()
        task = asyncio.create_task(pool.run(note_and_spin, str(started)))
        await until(started.exists)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: sum(map(alive, before)) == 1)
        await asyncio.to_thread(pool.wait_ready, WAIT_SECONDS)
        assert pool.states() == {"idle": 2, "busy": 0, "starting": 0}
        assert len(set(pool.pids()) - set(before)) == 1, "the other slot's child is untouched"
        assert (await pool.run(pid_and, 7)).value[0] == 7

    asyncio.run(main())


def test_a_loop_that_is_dropped_kills_its_children(pool: CpuPool, tmp_path: Path) -> None:
    started = tmp_path / "started"
    coroutine = pool.run(note_and_spin, str(started))
    loop = asyncio.new_event_loop()
    task = loop.create_task(coroutine)
    loop.run_until_complete(asyncio.sleep(0))
    wait_for(started.exists)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    coroutine.close()
    assert pool.wait_ready(WAIT_SECONDS)
    wait_for(lambda: pool.states()["idle"] == 2)


def test_run_sync_times_out_and_kills(pool: CpuPool, tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        pool.run_sync(note_and_spin, str(tmp_path / "started"), timeout_seconds=0.05)
    wait_for(lambda: pool.states()["idle"] == 2)


def test_a_cancellation_kills_the_child_and_only_that(pool: CpuPool, tmp_path: Path) -> None:
    cancellation = Cancellation()
    started, gate = tmp_path / "started", tmp_path / "gate"
    neighbour = threading.Thread(target=pool.run_sync, args=(hold, str(gate)), daemon=True)
    neighbour.start()
    threading.Timer(0.1, lambda: (wait_for(started.exists), cancellation.set())).start()
    with pytest.raises(CpuCancelled):
        pool.run_sync(note_and_spin, str(started), cancellation=cancellation)
    with pytest.raises(CpuCancelled):
        pool.run_sync(pid_and, 1, cancellation=cancellation)
    assert neighbour.is_alive(), "the neighbour's task went on"
    gate.touch()
    neighbour.join(WAIT_SECONDS)
    assert not neighbour.is_alive()
    assert pool.run_sync(pid_and, 1, cancellation=Cancellation()).value[0] == 1


def test_cancelling_around_the_end_of_a_task_harms_nobody(pool: CpuPool) -> None:
    """The answer and the kill race; the next task on that slot must not pay for it."""

    async def main() -> None:
        for round_ in range(24):
            task = asyncio.create_task(pool.run(pid_and, round_))
            await asyncio.sleep((round_ % 12) * 0.0001)
            task.cancel()
            results = await asyncio.gather(*(pool.run(pid_and, n) for n in range(3)))
            assert [result.value[0] for result in results] == [0, 1, 2]

    asyncio.run(main())


# Death


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a child that exits is not gone at once; its exit code is waited for."""
    monkeypatch.setattr(cpu_pool, "_EXIT_SECONDS", WAIT_SECONDS)


@pytest.mark.parametrize(("function", "cause"), [(die, "signal 9"), (leave, "exit code 3")])
@pytest.mark.usefixtures("patient")
def test_a_dead_child_fails_only_its_own_task(
    pool: CpuPool, tmp_path: Path, caplog: pytest.LogCaptureFixture, function: Any, cause: str
) -> None:
    async def main() -> None:
        gate = tmp_path / "gate"
        neighbour = asyncio.create_task(pool.run(hold, str(gate)))
        await until(lambda: pool.states()["busy"] == 1)
        with pytest.raises(CpuChildDied, match=cause):
            await pool.run(function)
        assert (await pool.run(pid_and, 1)).value[0] == 1, "the slot comes back"
        gate.touch()
        await neighbour

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert [record.__dict__["action"] for record in caplog.records] == ["cpu_pool.child_died"]


def test_an_idle_child_that_dies_is_replaced_unasked(pool: CpuPool) -> None:
    before = pool.pids()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len(pool.pids()) == 2 and not set(pool.pids()) & set(before))
    assert pool.run_sync(pid_and, 1).value[0] == 1


def test_a_child_that_has_just_died_gets_no_task() -> None:
    pool = CpuPool(1)
    assert pool.wait_ready(WAIT_SECONDS)
    with pool._changed:  # the thread of its slot learns of the death only after this
        [pid] = pool.pids()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not alive(pid))
        job = pool._submit(pid_and, (1,))
    assert job.future.result(WAIT_SECONDS).value[0] == 1
    pool.close()


def test_signals_to_the_group_are_the_parents_business(pool: CpuPool) -> None:
    pids = pool.pids()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        for pid in pids:
            os.kill(pid, number)
    assert {pool.run_sync(pid_and, n).pid for n in range(10)} <= set(pids)
    assert pool.pids() == pids


def test_a_child_that_cannot_start_is_logged_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        pool = CpuPool(1, preload=("no_such_module_anywhere",))
        assert not pool.wait_ready(0.02)
        wait_for(lambda: len(caplog.records) >= 2)
    assert pool.states()["starting"] == 1
    assert "no_such_module_anywhere" in caplog.records[0].__dict__["child_stderr"]
    pool.close()


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os._exit(0)", "sys.exit(0)"])
def test_no_child_outlives_its_parent(end: str, tmp_path: Path) -> None:
    """One child is in a busy loop, one in a multiplication that holds its interpreter lock, one idle."""
    program = textwrap.dedent(f"""
        import os, sys, threading, time
        from holdfast.compute.cpu_pool import CpuPool
        from tests.unit.compute.test_cpu_pool import note_and_spin
        pool = CpuPool(3)
        assert pool.wait_ready(10)
        for task in ((note_and_spin, {str(tmp_path / "spin")!r}), (pow, 3, 10**8)):
            threading.Thread(target=pool.run_sync, args=task, daemon=True).start()
        while pool.states()["busy"] < 2 or not os.path.exists({str(tmp_path / "spin")!r}):
            time.sleep(0.005)
        print(*pool.pids(), flush=True)
        {end}
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=WAIT_SECONDS
    )
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 3, done.stderr
    wait_for(lambda: not any(map(alive, pids)))
    assert done.stderr == ""


# Closing


def test_close_kills_busy_children_and_fails_all_who_wait(pool: CpuPool, tmp_path: Path) -> None:
    async def main() -> None:
        spinning = [asyncio.create_task(pool.run(note_and_spin, str(tmp_path / f"{n}"))) for n in range(2)]
        waiting = [asyncio.create_task(pool.run(pid_and, n)) for n in range(3)]
        await until(lambda: len(list(tmp_path.iterdir())) == 2)
        pids = pool.pids()
        began = time.monotonic()
        await asyncio.to_thread(pool.close)
        assert time.monotonic() - began < 5, "they would spin for ever"
        assert not any(map(alive, pids))
        outcomes = await asyncio.gather(*spinning, *waiting, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {CpuPoolClosed}
        with pytest.raises(CpuPoolClosed):
            await pool.run(pid_and, 1)

    asyncio.run(main())
    pool.close()
    pool.close(kill=False)
    assert (pool.pids(), pool.states()) == ([], {"idle": 0, "busy": 0, "starting": 0})


def test_a_patient_close_lets_running_tasks_end(pool: CpuPool, tmp_path: Path) -> None:
    async def main() -> None:
        gate = tmp_path / "gate"
        running = asyncio.create_task(pool.run(hold, str(gate)))
        await until(lambda: pool.states()["busy"] == 1)
        pids = pool.pids()
        closing = asyncio.create_task(asyncio.to_thread(pool.close, kill=False))
        await until(lambda: sum(map(alive, pids)) == 1)
        gate.touch()
        assert (await running).value in pids
        await closing
        assert not any(map(alive, pids))

    asyncio.run(main())


def test_killing_cuts_a_patient_close_short(pool: CpuPool, tmp_path: Path) -> None:
    async def main() -> None:
        started = tmp_path / "started"
        running = asyncio.create_task(pool.run(note_and_spin, str(started)))
        await until(started.exists)
        closing = asyncio.create_task(asyncio.to_thread(pool.close, kill=False))
        await until(lambda: len(pool.pids()) == 1)
        await asyncio.to_thread(pool.close)
        with pytest.raises(CpuPoolClosed):
            await running
        await closing

    asyncio.run(main())


def test_close_while_children_start() -> None:
    for _ in range(5):
        pool = CpuPool(4)
        pool.close()
        assert pool.pids() == []


def test_a_child_that_starts_during_the_close_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    may_start, started, start_child = threading.Event(), [], cpu_pool.start_child

    def start_late() -> Any:
        assert may_start.wait(WAIT_SECONDS)
        started.append(start_child())
        return started[-1]

    monkeypatch.setattr(cpu_pool, "start_child", start_late)
    pool = CpuPool(1)
    closing = threading.Thread(target=pool.close)
    closing.start()
    wait_for(lambda: pool._closed)
    may_start.set()
    closing.join(WAIT_SECONDS)
    pool._threads[0].join(WAIT_SECONDS)
    assert started[0].process.returncode == -signal.SIGKILL


def test_slots_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        CpuPool(0)
