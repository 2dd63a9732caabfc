"""Trials and suspects against models: any order of checks, failures and stops, on a clock of the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import psycopg2
import pytest
import sqlalchemy as sa
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.dbos_adapter.slots import Claim
from holdfast.recovery import homes as homes_module
from holdfast.recovery import trials as trials_module
from holdfast.recovery.homes import Homes
from holdfast.recovery.trials import Trials

SETTINGS: Any = SimpleNamespace(drain_seconds=1.0)
AWAY = psycopg2.OperationalError("away")


class _World:
    """The clock, the database's answers one after the other, and everything that was done, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any, release_fails: bool) -> None:
        self.now, self.stopped, self.release_fails = 0.0, False, release_fails
        self.done: list[Any] = []
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep)
        monkeypatch.setattr(module, "time", clock)
        monkeypatch.setattr(module, "_POLL_SECONDS", 0.125)  # without a rounding error
        monkeypatch.setattr(module, "release_claim", self.release_claim)

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds

    def release_claim(self, *_: Any, reason: str) -> bool:
        self.done.append(reason)
        if self.release_fails:
            raise AWAY
        return True

    @contextmanager
    def pause_others(self, queue: str) -> Iterator[None]:
        self.done.append(f"{queue} alone")
        try:
            yield
        finally:
            self.done.append("open")


ALONE = ("alone", "waits")
checks = st.lists(
    st.sampled_from([*ALONE, *ALONE, "row", "thread", "away", "unnoted", "stop"]), min_size=1, max_size=9
)


@given(checks, st.lists(st.sampled_from(["row", "active", "away"]), max_size=3), st.booleans())
@example(["alone", "row", "alone", "alone"], ["active", "away"], False)
@example(["alone", "unnoted", "alone"], [], False)
@example(["thread"] * 20, [], True)
def test_a_trial_starts_alone_or_is_given_back(
    script: list[str], run: list[str], release_fails: bool
) -> None:
    """It starts at the second check in a row that found nothing else, once that is recorded."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        world = _World(monkeypatch, trials_module, release_fails)
        left = list(script)
        now = {"check": ""}
        identity: Any = SimpleNamespace(trials_queue="trials", executor_id="me", application="a", version="1")

        def ask(name: str, /, **parameters: Any) -> list[dict[str, Any]]:
            if name == "start_trial":
                assert parameters == {"workflow_id": "w", "owner_xid": "token"}
                if now["check"] == "unnoted":
                    raise AWAY
                world.done.append("recorded")
                return []
            now["check"] = check = left.pop(0) if left else "alone" if not world.started else "over"
            world.stopped = world.stopped or check == "stop"
            if check == "away":
                raise AWAY
            others = [{"workflow_id": "other", "waits": check == "waits"}] * (check in ("row", "waits"))
            own = check == "row" or not world.started
            return others + [{"workflow_id": "w", "waits": False}] * own

        def start() -> None:
            assert trials.held == ("w",)
            world.done.append("started")
            world.started, left[:] = True, run

        def admit() -> bool:
            assert world.done == [], "asked while the other queues are open"
            return True

        world.started = False  # type: ignore[attr-defined]
        waker: Any = SimpleNamespace(
            slots=SimpleNamespace(starters={}),
            stopping=lambda _: world.stopped,
            pause_others=world.pause_others,
        )
        trials = Trials(
            SETTINGS,
            identity,
            waker,
            ops=SimpleNamespace(run=ask),  # type: ignore[arg-type]
            active=lambda: ["w"] * (now["check"] == "active"),
            executing=lambda: ["w"] + ["abandoned"] * (now["check"] == "thread"),
            on_postponed=lambda: world.done.append("postponed"),
        )
        trials.install()
        trials._wait_seconds = 2.0
        waker.slots.starters["trials"](Claim("w", "token", admit, start))

        alone, wanted, checked = 0, "", 0
        for checked, check in enumerate([*script, *["alone"] * 3]):
            alone = alone + 1 if check in (*ALONE, "unnoted", "stop") else 0
            if alone >= 2 and check != "unnoted":
                wanted = "started"
            elif checked * 0.125 >= 2.0:
                wanted = "postponed"
            elif check == "stop":
                wanted = "stopped"
            if wanted:
                break
        assert trials.held == ()
        if wanted == "started":
            assert world.done == ["trials alone", "recorded", "started", "open"]
            assert trials._wait_seconds == 1.0, "the next wait is short again"
            assert left == [] or world.stopped, "the queues stay closed while it runs"
        elif wanted == "stopped":
            assert world.done == ["trials alone", "open"], "left to the drain"
        else:
            assert world.done == ["trials alone", "not alone", "postponed", "open"]
            assert trials._wait_seconds == 4.0 and world.now >= 2.0 + 3 * 2.0, (
                "the others get three times that"
            )


rooms = st.lists(st.sampled_from(["full", "full", "behind", "away", "room", "lost", "stop"]), max_size=16)


@given(st.lists(rooms, min_size=1, max_size=5), st.booleans(), st.booleans())
@example([["behind"]] * 9, False, False)
@example([["behind"]] * 9, False, True)
@example([["full"] * 12, ["away"] * 30, ["room"], ["full"] * 12], True, True)
def test_a_suspect_starts_when_its_home_has_room(
    scripts: list[list[str]], release_fails: bool, gated: bool
) -> None:
    """Otherwise it is released after a while, and its home's suspects pause for longer each time."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        world = _World(monkeypatch, homes_module, release_fails)
        counted: list[str] = []
        execution: Any = SimpleNamespace(lost=False, count_at=counted.append)
        left: list[str] = []

        def room(*_: Any) -> str:
            state = left.pop(0) if left else "room"
            world.stopped, execution.lost = state == "stop", state == "lost"
            if state == "away":
                raise sa.exc.OperationalError("", None, Exception())
            return "full" if state in ("stop", "lost") else state

        monkeypatch.setattr(homes_module.claims, "room", room)
        monkeypatch.setattr(homes_module.claims, "are_gated", lambda: gated)
        monkeypatch.setattr(homes_module.claims, "limits_per_process", lambda _: (None, None))
        sessions: Any = SimpleNamespace(run=lambda *_, **__: [{"queue_name": "home"}])
        waker: Any = SimpleNamespace(stopping=lambda _: world.stopped, settles=lambda _: lambda: True)
        identity: Any = SimpleNamespace(suspects_queue="suspects", trials_queue="trials")
        homes = Homes(SETTINGS, identity, waker, sessions)
        db: Any = SimpleNamespace(get_queue=lambda _: object())
        status = {"queue_name": "suspects", "workflow_uuid": "w", "queue_partition_key": None}

        waits, behind = 1.0, 1.0
        for script in scripts:
            begun, left[:] = world.now, script
            counted.clear()
            world.done.clear()
            world.stopped = execution.lost = False
            admitted = homes.admit(db, status, execution)
            assert counted == ["home"], "its slot is taken once"
            pause, expected = 0.0, None
            for number, state in enumerate([*script, "room"]):
                if state == "room":
                    expected, waits, behind = True, 1.0, 1.0
                elif state == "behind":
                    expected, pause, behind = False, behind, min(2 * behind, 60.0)
                elif number * 0.125 >= waits:
                    expected, pause, waits = False, 3 * waits, 2 * waits
                elif state in ("stop", "lost"):
                    expected = False
                if expected is not None:
                    break
            assert admitted is expected
            assert world.done == ["home queue full"] * bool(pause)
            own_pause = 0.0 if gated else min(pause, 5.0)
            assert homes.paused("suspects") == ["home"] * (pause > own_pause)
            assert homes.paused("trials") == []
            polls = number + (state in ("stop", "lost") and not pause)
            assert world.now == begun + polls * 0.125 + own_pause
            world.now += pause
            assert homes.paused("suspects") == []


@pytest.mark.parametrize(
    ("taken", "settled", "wanted"),
    [((1, 1), True, "room"), ((2, 1), True, "full"), ((1, 2), True, "full"), ((1, 1), False, "full")],
)
def test_a_suspect_counts_in_its_own_process_too(taken: tuple[int, int], settled: bool, wanted: str) -> None:
    """For the queue and the partition, and only once earlier claims are dispatched. A trial does not."""
    slots = SimpleNamespace(count_for_queue=lambda _: taken[0], count_for_partition=lambda *_: taken[1])
    waker: Any = SimpleNamespace(settles=lambda _: lambda: settled, slots=slots)
    sessions: Any = SimpleNamespace(run=lambda *_, **__: [{"queue_name": "home"}])
    homes = Homes(SETTINGS, mock.Mock(), waker, sessions)
    queue = SimpleNamespace(
        name="home",
        _concurrency=None,
        _partition_concurrency=None,
        _worker_concurrency=1,
        _partition_worker_concurrency=1,
    )
    db: Any = SimpleNamespace(get_queue=lambda _: queue)
    assert homes._room(db, homes_module._Claim("w", None, "suspects", mock.Mock())) == wanted
    assert homes._room(db, homes_module._Claim("w", None, "trials", None)) == "room"
