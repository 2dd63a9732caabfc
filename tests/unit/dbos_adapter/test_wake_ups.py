"""Queue threads that pause while one queue runs alone, in any order of starts and ends."""

from __future__ import annotations

import threading
from contextlib import ExitStack

from hypothesis import given
from hypothesis import strategies as st

from holdfast.dbos_adapter.wake_ups import Waker
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
        wake_event.wait(60)
        assert waker.settled("a", 0) and not waker.settled("a", 1)
        thread = threading.Thread(target=wake_event.wait, args=[60])
        thread.start()
        wait_until(lambda: waker._wake_events["a"].waiting, "it waits again")
        assert waker.settled("a", 1) and waker.settled("a", 2)
        wake_event.set()
        thread.join()
        assert waker.settled("a", 1) and not waker.settled("a", 2)
    assert waker.settled("a", 2), "its thread has ended"
    assert waker.settled("of another process", 2)
