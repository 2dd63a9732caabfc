"""From a row that waits to a thread that polls: the trigger, the listener and the wake-ups."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from holdfast.dbos_adapter import cancelling
from holdfast.dbos_adapter.waiting.ending import Endings
from holdfast.dbos_adapter.wake_ups import Listener, Waker, _WakeEvent
from holdfast.postgres.database import Connection
from holdfast.postgres.outage import REACH
from tests.support.database import Database, wait_until
from tests.support.executors import insert


class Ears(Waker):
    """A waker that remembers what it was told, and when."""

    def __init__(self) -> None:
        super().__init__()
        self.woken: list[tuple[str, float]] = []
        self.done: list[str] = []
        self.endings.notice = self.done.append  # type: ignore[method-assign]
        self.all = 0

    def wake(self, queue_name: str) -> None:
        self.woken.append((queue_name, time.monotonic()))

    def wake_all(self) -> None:
        self.all += 1


@contextmanager
def listening(database: Database, ears: Waker) -> Iterator[Listener]:
    listener = Listener(database.settings(), ears, purpose="holdfast/worker-test/listener")
    listener.start()
    try:
        yield listener
    finally:
        listener.stop()


@pytest.fixture
def ears(database: Database) -> Iterator[Ears]:
    made = Ears()
    with listening(database, made):
        wait_until(lambda: made.all == 1, "the listener listens; it polls every queue first")
        yield made


@pytest.mark.timing
def test_waiting_work_wakes_its_queue_within_100_ms(database: Database, ears: Ears) -> None:
    delays = []
    for number in range(40):
        begun = time.monotonic()
        insert(database, [f"w{number}"], queue_name=f"q{number}")
        wait_until(lambda n=number: len(ears.woken) > n, "the queue is woken")
        name, at = ears.woken[-1]
        assert name == f"q{number}"
        delays.append(at - begun)
    assert statistics.median(delays) < 0.1, delays


def test_what_wakes_a_queue_and_what_does_not(database: Database, ears: Ears) -> None:
    insert(database, ["a"], queue_name="first")
    insert(database, ["b"], status="PENDING", queue_name="silent", executor_id="x")
    insert(database, ["c"], queue_name=None)
    insert(database, ["d"], status="DELAYED", queue_name="later")
    for workflow_id, status in (("a", "PENDING"), ("b", "ENQUEUED"), ("d", "ENQUEUED")):
        database.rows(
            "UPDATE dbos.workflow_status SET status = %(status)s WHERE workflow_uuid = %(id)s",
            status=status,
            id=workflow_id,
        )
    database.rows("UPDATE dbos.workflow_status SET priority = 1")
    insert(database, ["z"], queue_name="last")
    wait_until(lambda: ears.woken and ears.woken[-1][0] == "last", "the last one is woken")
    assert [name for name, _ in ears.woken] == ["first", "silent", "later", "last"]


def test_a_notice_that_arrives_during_a_check_is_heard(database: Database) -> None:
    """The answer of a query brings notices along; after it the socket has nothing more to read."""
    made = Ears()
    with listening(database, made):
        wait_until(lambda: made.all == 1, "the listener listens")
        checked = threading.Event()

        def check(connection: Connection, *, now: bool = False) -> None:
            if not checked.is_set():
                insert(database, ["w"], queue_name="in between")
                connection.cursor().execute("SELECT 1")
                checked.set()

        made.cancellations.check = check  # type: ignore[method-assign]
        wait_until(lambda: [name for name, _ in made.woken] == ["in between"], "the queue is woken")
        assert checked.is_set()


@pytest.mark.parametrize(
    ("status", "wakes"),
    [
        ("SUCCESS", True),
        ("ERROR", True),
        ("CANCELLED", True),
        ("MAX_RECOVERY_ATTEMPTS_EXCEEDED", True),
        ("ENQUEUED", False),
    ],
)
def test_a_child_that_ends_wakes_its_parent(database: Database, ears: Ears, status: str, wakes: bool) -> None:
    insert(database, ["child"], status="PENDING", executor_id="x", parent_workflow_id="parent")
    insert(database, ["orphan"], status="PENDING", executor_id="x")
    database.rows("UPDATE dbos.workflow_status SET status = %(status)s", status=status)
    insert(database, ["z"], queue_name="last")
    wait_until(lambda: ears.woken and ears.woken[-1][0] == "last", "all notices are in")
    assert ears.done == (["5:childparent", "6:orphan"] if wakes else [])


def test_an_end_whose_ids_are_too_long_makes_every_parent_poll(database: Database, ears: Ears) -> None:
    insert(database, ["c" * 7000], status="PENDING", parent_workflow_id="ü" * 1000)
    database.rows("UPDATE dbos.workflow_status SET status = 'SUCCESS'")
    wait_until(lambda: ears.done == [""], "the notice comes")


@pytest.mark.parametrize("workflow_id", ["child", "7:7", "", ":", "ü\n=x"])
@pytest.mark.parametrize("parent", ["", "parent", "3:abc"])
def test_a_notice_names_the_workflow_and_its_parent(workflow_id: str, parent: str) -> None:
    endings = Endings()
    told: list[str] = []
    endings.ended = told.append  # type: ignore[method-assign]
    endings.notice(f"{len(workflow_id)}:{workflow_id}{parent}")
    assert told == [f"={workflow_id}", *([parent] if parent else [])]


def test_a_notice_comes_only_with_the_commit(database: Database, ears: Ears) -> None:
    """Nobody is woken for work that it cannot see."""
    connection = database.admin()
    cursor = connection.cursor()
    cursor.execute(
        "BEGIN; INSERT INTO dbos.workflow_status (workflow_uuid, status, queue_name)"
        " VALUES ('w', 'ENQUEUED', 'late')"
    )
    insert(database, ["z"], queue_name="early")
    wait_until(lambda: ears.woken, "one is woken")
    cursor.execute("COMMIT")
    wait_until(lambda: len(ears.woken) == 2, "the other is woken")
    assert [name for name, _ in ears.woken] == ["early", "late"]


def test_the_listener_survives_the_end_of_its_session(database: Database, ears: Ears) -> None:
    terminate = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE '%%/listener'"
    )
    for turn in range(3):
        wait_until(lambda: database.one(terminate, unused=1), "its session is ended")
        wait_until(lambda t=turn: ears.all >= t + 2, "it is back, and polls all queues for missed notices")
    woken = len(ears.woken)
    insert(database, ["w"], queue_name="q")
    wait_until(lambda: len(ears.woken) > woken, "it listens again", seconds=2)


def test_the_listener_outlives_errors_of_those_it_wakes(database: Database) -> None:
    class Fragile(Ears):
        def wake(self, queue_name: str) -> None:
            super().wake(queue_name)
            if queue_name == "bad":
                raise RuntimeError("a bug elsewhere")

    ears = Fragile()
    with listening(database, ears):
        wait_until(lambda: ears.all, "it listens")
        insert(database, ["a"], queue_name="bad")
        wait_until(lambda: ears.all == 2, "it listens again")
        insert(database, ["b"], queue_name="good")
        wait_until(lambda: ears.woken[-1][0] == "good", "it goes on")


# --- wake-ups ----------------------------------------------------------------------------------------


def test_a_wake_up_ends_one_wait() -> None:
    stop = threading.Event()
    wake_event = _WakeEvent(stop)
    wake_event.set()
    begun = time.monotonic()
    assert wake_event.wait(60) is False, "woken is not stopped"
    assert wake_event.wait(0.01) is False
    assert time.monotonic() - begun < 30
    assert not wake_event.is_set()


def test_a_wake_up_before_the_wait_is_not_lost() -> None:
    """The queue's thread is looking while work arrives: its next wait must end at once."""
    wake_event = _WakeEvent(threading.Event())
    wake_event.set()
    ended = threading.Event()
    threading.Thread(target=lambda: (wake_event.wait(30), ended.set()), daemon=True).start()
    assert ended.wait(20)


def test_the_stop_event_shows_through_the_wake_event() -> None:
    stop = threading.Event()
    wake_event = _WakeEvent(stop)
    stop.set()
    assert wake_event.is_set()
    begun = time.monotonic()
    assert wake_event.wait(60) is True
    assert time.monotonic() - begun < 30


def test_an_unknown_queue_is_somebody_elses() -> None:
    Waker().wake("unknown")


# --- parents -----------------------------------------------------------------------------------------


def test_a_parent_wakes_when_a_child_is_done() -> None:
    endings = Endings()

    async def wait(name: str, seconds: float) -> None:
        with endings.count_ends(name) as ends:
            await ends.wait(1, seconds)

    async def scene() -> float:
        begun = time.monotonic()
        waiting = [asyncio.create_task(wait("p", 30)) for _ in range(3)]
        other = asyncio.create_task(wait("other", 0.2))
        await asyncio.sleep(0)
        threading.Thread(target=endings.ended, args=("p",)).start()
        await asyncio.gather(*waiting)
        assert not other.done()
        await other  # by its timeout, without an error
        return time.monotonic() - begun

    assert asyncio.run(scene()) < 25, "nobody waits for the 30 s"
    assert not endings._waiting, "nobody is remembered who no longer waits"


def test_a_parent_of_many_is_woken_when_as_many_have_ended() -> None:
    endings = Endings()

    async def scene() -> None:
        with endings.count_ends("p") as ends:
            endings.ended("p")
            ends.restart()
            # Between the poll and the wait.
            endings.ended("p")
            waiting = asyncio.create_task(ends.wait(3, 30))
            await asyncio.sleep(0)
            endings.ended("p")
            await asyncio.sleep(0.05)
            assert not waiting.done(), "two of three"
            endings.ended("p")
            await asyncio.wait_for(waiting, 5)
            ends.restart()
            endings.ended("p")
            await asyncio.wait_for(ends.wait(1, 30), 5)

    asyncio.run(scene())


def test_a_cancelled_parent_is_forgotten() -> None:
    endings = Endings()

    async def wait() -> None:
        with endings.count_ends("p") as ends:
            await ends.wait(1, 30)

    async def scene() -> None:
        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scene())
    assert not endings._waiting


def test_wake_all_wakes_parents_and_queues() -> None:
    waker = Waker()
    wake_event = _WakeEvent(threading.Event())
    waker._wake_events["q"] = wake_event

    async def scene() -> None:
        with waker.endings.count_ends("p") as ends:
            task: asyncio.Task[Any] = asyncio.create_task(ends.wait(1000, 30))
            await asyncio.sleep(0)
            waker.wake_all()
            await asyncio.wait_for(task, 5)

    asyncio.run(scene())
    assert threading.Event.is_set(wake_event)


def test_retries_end_their_sleep_when_the_database_is_back(database: Database, ears: Ears) -> None:
    slept: list[float] = []

    def sleeper() -> None:
        begun = time.monotonic()
        REACH.wait_for_return(60)
        slept.append(time.monotonic() - begun)

    thread = threading.Thread(target=sleeper)
    thread.start()
    time.sleep(0.1)
    database.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name LIKE 'holdfast/worker-test/%'"
    )
    thread.join(30)
    assert slept, "it slept on although the listener was back"


# --- cancelled work ----------------------------------------------------------------------------------


def test_a_cancel_ends_the_computation_at_once(
    database: Database, ears: Ears, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancelling, "_READ_ALL_SECONDS", 3600.0)  # only notifications are left
    insert(database, ["mine", "other"], status="PENDING")
    heard: list[str] = []
    with (
        ears.cancellations.watch_current("mine") as mine,
        mine.ending(lambda: heard.append("mine")),
    ):
        for workflow_id in ("other", "mine"):
            assert not heard
            database.rows(
                "UPDATE dbos.workflow_status SET status = 'CANCELLED' WHERE workflow_uuid = %(id)s",
                id=workflow_id,
            )
        wait_until(lambda: heard, "the computation is ended")
    assert not ears.cancellations.watched(), "nobody is remembered who ended"


def test_a_cancel_that_nobody_heard_of_is_found_by_a_new_session(database: Database) -> None:
    insert(database, ["w"], status="PENDING")
    waker = Waker()
    with waker.cancellations.watch_current("w") as cancellation:
        database.rows("UPDATE dbos.workflow_status SET status = 'CANCELLED'")
        heard = threading.Event()
        with cancellation.ending(heard.set), listening(database, waker):
            assert heard.wait(20)
    # Whoever asks later is told at once.
    with cancellation.ending(heard.clear):
        assert not heard.is_set()
