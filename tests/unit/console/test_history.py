"""The console's timeline from rows: takeovers, handovers, bounds, and what counts as a change."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.console.bars import BUCKET_SECONDS, Collection
from holdfast.console.history import History
from holdfast.console.labels import label
from tests.support import names

NOW = 1_800_000_000.0


def row(workflow_id: str, status: str = "PENDING", started: float | None = NOW - 10, **columns: Any) -> Any:
    return {
        "workflow_id": workflow_id,
        "name": names.FIBONACCI_NUMBER,
        "class_name": None,
        "instance_name": None,
        "status": status,
        "executor_id": "worker-a",
        "queue": "fibonacci",
        "attempts": 1,
        "started_ms": None if started is None else int(started * 1000),
        "ended_ms": None,
        **columns,
    }


def moved(workflow_id: str, number: int = 1, **columns: Any) -> Any:
    return {
        "handover_id": number,
        "workflow_id": workflow_id,
        "name": names.FIBONACCI_NUMBER,
        "kind": "takeover",
        "reason": "lock lost",
        "from_executor": "worker-a",
        "released_by": "worker-c",
        "to_executor": None,
        "started_ms": int((NOW - 10) * 1000),
        "lost_at": NOW - 5,
        "released_at": NOW - 4.7,
        "claimed_at": None,
        "takeover_seconds": 0.2949,
        "attempt": 1,
        "status": "ENQUEUED",
        **columns,
    }


@pytest.fixture
def history() -> History:
    return History(window_seconds=900, bar_limit=10, move_limit=4)


def bars(history: History) -> list[Any]:
    found = sorted(history.bars.items.values(), key=lambda bar: bar["started_at"])
    return [(bar["executor_id"], bar["outcome"], bar["ended_at"], bar["attempt"]) for bar in found]


def test_a_collection_returns_each_change_once() -> None:
    items = Collection("id")
    items.put({"id": 1, "x": 1})
    items.put({"id": 2, "x": 1})
    assert items.take() == ([{"id": 1, "x": 1}, {"id": 2, "x": 1}], [])
    items.put({"id": 1, "x": 1})
    assert items.take() == ([], [])
    items.put({"id": 1, "x": 2})
    items.put({"id": 1, "x": 3})
    items.drop(2)
    items.drop(2)
    assert items.take() == ([{"id": 1, "x": 3}], [2])
    items.put({"id": 3})
    items.drop(3)
    items.drop(1)
    items.put({"id": 1})
    changed, gone = items.take()
    assert (changed, gone) == ([{"id": 1}], [3])


def test_an_attempt_runs_and_ends(history: History) -> None:
    history.attempts([row("w")], {"w": '{"positionalArgs": [34, "recursive"]}'}, NOW)
    assert bars(history) == [("worker-a", "running", None, 1)]
    assert history.bars.running() == {"w"}
    history.attempts([row("w", "SUCCESS", ended_ms=int((NOW - 1) * 1000))], {}, NOW)
    assert bars(history) == [("worker-a", "success", NOW - 1, 1)]
    [bar] = history.bars.items.values()
    assert bar["label"] == "fib(34)"
    assert history.bars.running() == set()


@pytest.mark.parametrize("seen_before", [True, False], ids=["watched", "read later"])
def test_a_takeover_breaks_one_bar_and_continues_in_another(history: History, seen_before: bool) -> None:
    if seen_before:
        history.attempts([row("w")], {}, NOW - 6)
        history.attempts([row("w", "ENQUEUED", None)], {}, NOW - 4.6)
        history.moved([moved("w")], {}, NOW - 4.6)
        assert bars(history) == [("worker-a", "lost", NOW - 5, 1)]
        assert history.open_moves() == [1]
    again = row("w", started=NOW - 4.6, executor_id="worker-b", attempts=2)
    history.attempts([again], {}, NOW)
    history.moved([moved("w", to_executor="worker-b", claimed_at=NOW - 4.6)], {}, NOW)
    assert bars(history) == [("worker-a", "lost", NOW - 5, 1), ("worker-b", "running", None, 2)]
    first, second = sorted(history.bars.items.values(), key=lambda bar: bar["started_at"])
    assert first["next"] == second["key"]
    assert second["next"] is None
    assert history.open_moves() == []
    assert history.last_takeover() == {
        "at": NOW - 4.7,
        "seconds": 0.2949,
        "slot_wait_seconds": 0.1,
        "workflows": 1,
        "from": "worker-a",
        "by": "worker-b",
    }


def test_the_bar_keeps_its_key_when_it_is_lost(history: History) -> None:
    history.attempts([row("w")], {}, NOW)
    [key] = history.bars.items
    history.bars.take()
    history.moved([moved("w", kind="handover")], {}, NOW)
    changed, gone = history.bars.take()
    assert [(bar["key"], bar["outcome"]) for bar in changed] == [(key, "handed_over")]
    assert gone == []


def test_a_move_nobody_timed_ends_what_was_seen(history: History) -> None:
    history.attempts([row("w"), row("other", executor_id="worker-b")], {}, NOW)
    history.moved([moved("w", started_ms=None), moved("other", 2, started_ms=None)], {}, NOW)
    assert sorted(bars(history), key=str) == [
        ("worker-a", "lost", NOW - 5, 1),
        ("worker-b", "running", None, 1),
    ]


def test_parked_and_cancelled_work_keeps_its_bar(history: History) -> None:
    history.attempts([row("parked"), row("cancelled")], {}, NOW - 3)
    ended = int((NOW - 2) * 1000)
    history.attempts([row("cancelled", "CANCELLED", None, ended_ms=ended, queue=None)], {}, NOW)
    history.moved([moved("parked", status="MAX_RECOVERY_ATTEMPTS_EXCEEDED")], {}, NOW)
    found = {bar["workflow_id"]: bar for bar in history.bars.items.values()}
    assert (found["cancelled"]["outcome"], found["cancelled"]["ended_at"]) == ("cancelled", NOW - 2)
    assert found["parked"]["outcome"] == "parked"


def test_deleted_work_is_gone(history: History) -> None:
    history.attempts([row("w")], {}, NOW)
    history.bars.take()
    history.vanished(["w", "never seen"])
    assert history.bars.take() == ([], [f"w@{int((NOW - 10) * 1000)}"])
    assert not history.bars.knows("w")


def test_what_is_too_much_is_counted_once(history: History) -> None:
    ended = int(NOW * 1000)
    rows = [row(f"w{n}", "SUCCESS", NOW - 100 + n, ended_ms=ended) for n in range(30)]
    for _ in range(3):  # polls overlap
        history.attempts(rows, {}, NOW)
        history.trim(NOW)
    assert len(history.bars.items) == 10
    assert sum(n for buckets in history.more.shown().values() for _, _, n in buckets) == 20
    assert all(size == BUCKET_SECONDS for _, size, _ in history.more.shown()["worker-a"])
    assert history.more.take() == history.more.shown()
    assert history.more.take() == {}
    kept = {bar["workflow_id"] for bar in history.bars.items.values()}
    assert kept == {f"w{n}" for n in range(20, 30)}


def test_running_work_stays_longest(history: History) -> None:
    history.attempts([row("old", started=NOW - 5000)], {}, NOW)
    ended = int(NOW * 1000)
    history.attempts([row(f"w{n}", "SUCCESS", NOW - 100 + n, ended_ms=ended) for n in range(30)], {}, NOW)
    history.trim(NOW)
    assert history.bars.running() == {"old"}


def test_the_window_moves_on(history: History) -> None:
    history.attempts([row("w", "SUCCESS", ended_ms=int(NOW * 1000)), row("runs")], {}, NOW)
    history.moved([moved("m", n) for n in range(1, 8)], {}, NOW)
    history.add_counts([{"executor_id": "worker-a", "bucket": NOW - 60, "workflows": 5}], NOW - 45)
    history.trim(NOW)
    assert [item["id"] for item in history.moves.items.values()] == ["4", "5", "6", "7"]
    history.trim(NOW + 1000)
    assert {bar["workflow_id"] for bar in history.bars.items.values()} == {"runs"}
    assert history.moves.items == {}
    assert history.more.shown() == {}
    assert history.last_takeover() is None


@pytest.mark.parametrize(
    ("name", "instance", "inputs", "expected"),
    [
        (names.FIBONACCI_NUMBER, None, '{"positionalArgs": [34, "recursive"], "namedArgs": {}}', "fib(34)"),
        (names.FIBONACCI_NUMBER, None, '{"namedArgs": {}, "positionalArgs":[7,"doubling"]}', "fib(7)"),
        (names.FIBONACCI_NUMBER, None, '{"positionalArgs": [3', names.FIBONACCI_NUMBER),
        (names.FIBONACCI_NUMBER, None, '{"positionalArgs": ["password=x", 1]}', names.FIBONACCI_NUMBER),
        (names.FIBONACCI_NUMBER, None, None, names.FIBONACCI_NUMBER),
        (names.CLASS_SCOPE, None, '{"positionalArgs": [30, 0.5]}', "scope: class, 30 steps"),
        (names.INSTANCE_SCOPE, "alpha", '{"positionalArgs": [30, 0.5]}', "scope: instance alpha"),
        (names.USERS_PROCESS, None, '{"positionalArgs": [5, 3]}', "users: 5 pages of 3"),
        (names.USERS_PROCESS, None, '{"positionalArgs": [5, "secret"]}', "users"),
        ("x" * 300, None, '{"positionalArgs": [1]}', "x" * 60),
    ],
)
def test_labels_show_numbers_and_nothing_else(
    name: str, instance: str | None, inputs: str | None, expected: str
) -> None:
    assert label(name, instance, inputs) == expected
