"""Queue threads that pause while one queue runs alone, in any order of starts and ends."""

from __future__ import annotations

import threading
from contextlib import ExitStack, suppress
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.dbos_adapter.wake_ups import Waker, poll_pause_seconds, with_activity
from tests.support.database import wait_until

QUEUES = ("trials", "a", "b")
ACTIONS = st.sampled_from([*QUEUES, "alone", "together"])


@given(st.lists(ACTIONS, max_size=20))
def test_every_other_queue_is_paused_while_one_runs_alone(script: list[str]) -> None:
    """Also a queue whose thread starts meanwhile."""
    waker, threads, alone = Waker(), ExitStack(), ExitStack()
    started: set[str] = set()
    is_alone = False
    for action in script:
        if action in QUEUES:
            threads.enter_context(waker.register_wake_event(action, threading.Event()))
            started.add(action)
        elif action == "alone" and not is_alone:
            alone.enter_context(waker.pause_others("trials"))
            is_alone = True
        elif action == "together":
            alone.close()
            is_alone = False
        paused = {name for name in QUEUES if waker.is_paused(name)}
        assert paused == (started - {"trials"} if is_alone else set())
        assert (waker.paused_seconds > 0) == is_alone
    threads.close()


def test_a_queue_is_settled_once_the_claims_of_its_polls_are_dispatched() -> None:
    """Between two waits its thread claims, and dispatches what it claimed."""
    waker = Waker()
    with waker.register_wake_event("a", threading.Event()) as wake_event:
        before = waker.settles("a")
        assert not before()
        wake_event.wait(60)
        first = waker.settles("a")
        assert before() and not first()
        thread = threading.Thread(target=wake_event.wait, args=[60])
        thread.start()
        wait_until(lambda: waker._wake_events["a"].waiting, "it waits again")
        waiting = waker.settles("a")
        assert first() and waiting()
        wake_event.set()
        thread.join()
        last = waker.settles("a")
        assert first() and waiting() and not last(), "the next poll concerns new claims alone"
    assert last(), "its thread has ended"
    assert waker.settles("of another process")() and waker.settles(None)()


def test_a_quiet_queue_polls_rarely_while_notifications_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wake-up and each claim brings its own interval back; so does a rate limit, which time frees."""
    now, pauses, original = [0.0], [], threading.Event.wait
    monkeypatch.setattr("holdfast.dbos_adapter.wake_ups.time.monotonic", lambda: now[0])

    def wait(event: threading.Event, timeout: float | None = None) -> bool:
        if event is wake_event:
            pauses.append(timeout)
        return original(event, 0)

    waker = Waker()
    with waker.register_wake_event("a", threading.Event()) as wake_event:
        monkeypatch.setattr(threading.Event, "wait", wait)

        def pause(at: float, interval: float = 1.0) -> float | None:
            now[0] = at
            wake_event.wait(interval)
            return pauses[-1]

        assert pause(100) == 1, "without the listener"
        waker.endings.notices_arrive = True
        assert [pause(100), pause(20), pause(5)] == [3, 2, 1]
        assert pause(100, interval=60) == 60
        waker.wake("a")
        assert [pause(101), pause(120)] == [1, 2]
        assert poll_pause_seconds(0.1, 1) == 0.1

        def polled(at: float, result: Any, **limits: object) -> None:
            now[0] = at

            def claim(*_: Any) -> Any:
                if isinstance(result, Exception):
                    raise result
                return result

            with suppress(OSError):
                with_activity(claim)(None, SimpleNamespace(**limits))

        limiter = {"limit": 1, "period": 60}
        for result, limits in (
            ((["w"], None), {}),
            (["w"], {}),
            (([], "limiter"), {"_limiter": limiter}),
            (([], None), {"_partition_limiter": limiter}),
            (OSError(), {}),
        ):
            polled(now[0] + 100, result, **limits)
            assert pause(now[0] + 1) == 1, "work came, waits for time to pass, or may have been missed"
        polled(now[0] + 100, ([], None), _limiter=None)
        polled(now[0], [])
        assert pause(now[0]) == 3
