"""What is told of the workflows that wait, and when: without a database."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa
from dbos import error as dbos_error
from hypothesis import given
from hypothesis import strategies as st

from holdfast.dbos_adapter.cancelling import Cancellations
from holdfast.dbos_adapter.waiting.runs import CHANGING, HIDDEN, Run
from holdfast.dbos_adapter.waiting.waits import Waits
from holdfast.postgres.database import Row
from tests.support.database import wait_until

KEY = ("w", "claim")


class _Table:
    """Stands in for ``ops.waits`` and the workflows' owners."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.owner: str | None = "claim"
        self.status = "PENDING"
        self.queue = "home"
        self.told = 0
        self.away = False
        self.refused = ""
        self.answers = threading.Event()
        self.answers.set()

    def run(self, name: str, /, **params: Any) -> list[Row]:
        if self.away:
            raise sa.exc.ProgrammingError(name, None, Exception("away"))
        if name == "publish_waits":
            assert self.answers.wait(5)
            if self.refused in params["workflow_ids"]:
                raise sa.exc.DataError(name, None, Exception("out of range"))
            self.told += 1
            return [self._publish(dict(zip(_COLUMNS, row, strict=True))) for row in zip(*params.values())]  # noqa: B905
        if name == "withdraw_wait":
            return [{}] if self.rows.pop(params["workflow_id"], None) else []
        return [{}] if params["owner_xid"] == self.owner else []

    def _publish(self, row: Row) -> Row:
        owned = row["owner_xid"] == self.owner and self.status == "PENDING"
        if owned:
            self.rows[row["workflow_id"]] = row
        return {**row, "status": self.status, "queue_name": self.queue, "published": owned}


_COLUMNS = ("workflow_id", "owner_xid", "kind", "subject", "waited", "seconds")


@pytest.fixture
def table() -> _Table:
    return _Table()


@pytest.fixture
def gone() -> list[Any]:
    """What `release_claim` answers, one after the other."""
    return []


@pytest.fixture
def waits(table: _Table, gone: list[Any]) -> Iterator[Waits]:
    def release_claim(_: str) -> bool:
        answer = gone.pop(0)
        if callable(answer):
            answer = answer()
        if isinstance(answer, Exception):
            raise answer
        return bool(answer)

    made = Waits(
        table.run, Cancellations(), isolated={"suspects"}, release_claim=release_claim, settle_seconds=0.02
    )
    made.start()
    yield made
    made.stop()


def told(table: _Table) -> Row:
    row: Row = wait_until(lambda: table.rows.get("w"), "it is told")
    return row


def test_the_wait_that_ends_first_is_published(table: _Table, waits: Waits) -> None:
    made = [
        waits.wait(*KEY, kind="workflow", subject="child"),
        waits.wait(*KEY, kind="sleep", seconds=60),
        waits.wait(*KEY, kind="message", subject="topic", seconds=30),
    ]
    for wait in made:
        wait.begin()
    row = told(table)
    assert (row["kind"], row["subject"]) == ("message", "topic")
    assert 29 < row["seconds"] <= 30
    for wait in (made[2], made[1]):
        wait.end()
    assert table.rows == {}, "the branch that goes on may do anything"
    assert told(table)["kind"] == "workflow"
    made[0].end()
    assert (table.rows, waits.runs.by_key) == ({}, {})


@given(
    st.lists(
        st.sampled_from(["begin", "end", "step", "stepped", "follow", "over", "due", "answer"]), max_size=30
    )
)
def test_a_wait_is_published_only_while_the_execution_does_nothing_else(script: list[str]) -> None:
    """Told are those that wait and run no step, in any order. What is told is withdrawn before a step."""
    table = _Table()
    waits = Waits(table.run, Cancellations(), settle_seconds=0.0)
    runs, publisher, on, steps = waits.runs, waits._publisher, list[Any](), 0
    asked: list[Run] = []
    for each in script:
        if each == "begin":
            on.append(waits.wait(*KEY, kind="message"))
            on[-1].begin()
        elif each == "end" and on and not asked:
            on.pop().end()
            assert not table.rows or KEY in waits._followers, "an execution that goes on may do anything"
        elif each == "step" and not asked:
            if (run := waits.step_begins(KEY)) is not None:
                waits.withdraw(run)
            steps += 1
            assert "w" not in table.rows, "its row is gone before the step runs"
        elif each == "stepped" and steps:
            waits.step_ends(KEY)
            steps -= 1
        elif each == "follow" and KEY not in runs.by_key and not on:
            waits.follows(KEY)
            table.rows["w"] = {}
        elif each == "over" and not on and not steps and not asked:
            waits.over(KEY)
            for run in runs.obsolete:
                waits.withdraw(run)
            assert runs.by_key == {} and not runs.unshown
            break
        elif each == "due" and runs.unshown and not asked:
            asked, _, _ = publisher._due()
        elif each == "answer" and asked:
            publisher._publish(asked)
            asked = []
        run = runs.by_key.get(KEY)
        assert run is not None or not (on or steps or asked)
        assert len(runs.unshown) == bool(on and not steps and run is not None and run.state == HIDDEN)
        assert on or steps or run is None or run.state == CHANGING or run.doubtful, "nothing is kept at rest"


def test_the_first_step_of_a_later_execution_withdraws_what_the_one_before_left(
    table: _Table, waits: Waits
) -> None:
    table.rows["w"] = {}
    waits.follows(KEY)
    run = waits.step_begins(KEY)
    assert run is not None
    waits.withdraw(run)
    assert table.rows == {}
    assert waits.step_begins(KEY) is None, "once is enough"
    waits.step_ends(KEY)
    waits.step_ends(KEY)
    waits.follows(KEY)
    table.owner = "another"
    run = waits.step_begins(KEY)
    assert run is not None
    with pytest.raises(dbos_error.DBOSWorkflowConflictIDError):
        waits.withdraw(run)


def test_a_step_waits_for_the_statement_that_publishes_the_wait(table: _Table, waits: Waits) -> None:
    """Or the row would come after the step's body began."""
    table.answers.clear()
    waits.wait(*KEY, kind="sleep", seconds=60).begin()
    wait_until(lambda: waits.runs.by_key[KEY].state == 1, "the statement is under way")
    run = waits.step_begins(KEY)
    assert run is not None
    thread = threading.Thread(target=waits.withdraw, args=[run])
    thread.start()
    table.answers.set()
    thread.join(5)
    assert table.told == 1
    assert table.rows == {}


def test_who_was_released_meanwhile_does_not_go_on(table: _Table, waits: Waits) -> None:
    wait = waits.wait(*KEY, kind="message", seconds=60)
    wait.begin()
    told(table)
    table.rows.clear()
    table.owner = None
    with pytest.raises(dbos_error.DBOSWorkflowConflictIDError):
        wait.end()


def test_a_row_that_somebody_deleted_costs_nothing(table: _Table, waits: Waits) -> None:
    wait = waits.wait(*KEY, kind="message", seconds=60)
    wait.begin()
    told(table)
    table.rows.clear()
    wait.end()


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("CANCELLED", dbos_error.DBOSWorkflowCancelledError),
        ("ENQUEUED", dbos_error.DBOSWorkflowConflictIDError),
    ],
)
def test_a_lost_owner_learns_it_when_the_wait_is_published(
    table: _Table, waits: Waits, status: str, error: type[BaseException]
) -> None:
    table.owner, table.status = None, status
    wait = waits.wait(*KEY, kind="sleep", seconds=60)
    wait.begin()
    with pytest.raises(error):
        wait.block(5)
    wait.end()


def test_a_database_that_refuses_is_asked_again_and_stops_nobody(table: _Table, waits: Waits) -> None:
    table.away = True
    wait = waits.wait(*KEY, kind="sleep", seconds=60)
    wait.begin()
    wait_until(lambda: waits.runs.by_key[KEY].doubtful, "it was refused")
    other = waits.wait("other", "claim", "sleep", seconds=60)
    other.begin()
    wait_until(lambda: waits.runs.by_key["other", "claim"].doubtful, "it was refused")
    wait.end()
    table.away = False
    wait_until(lambda: "other" in table.rows, "it is told later")
    assert "w" not in table.rows


def test_work_in_a_suspects_place_is_given_back(table: _Table, waits: Waits, gone: list[Any]) -> None:
    table.queue = "suspects"
    gone += [psycopg2.OperationalError("away"), False, True]
    wait = waits.wait(*KEY, kind="sleep", seconds=60)
    wait.begin()
    wait_until(lambda: len(gone) == 1, "tried again after an outage", seconds=3)
    assert wait._interruption is None, "it ran just then, and stays"
    run = waits.step_begins(KEY)
    assert run is not None
    waits.withdraw(run)
    waits.step_ends(KEY)
    with pytest.raises(dbos_error.DBOSWorkflowConflictIDError):
        wait.block(5)
    assert gone == []


def test_work_that_goes_on_is_not_given_back_any_more(table: _Table, waits: Waits, gone: list[Any]) -> None:
    table.queue = "suspects"
    gone += [psycopg2.OperationalError("away"), True]
    waits.wait(*KEY, kind="sleep", seconds=60).begin()
    wait_until(lambda: len(gone) == 1, "the first try failed")
    run = waits.step_begins(KEY)
    assert run is not None
    waits.withdraw(run)
    assert waits.runs.leaving == {}


def test_work_that_goes_on_while_its_release_fails_is_not_given_back(
    table: _Table, waits: Waits, gone: list[Any]
) -> None:
    table.queue = "suspects"

    def goes_on() -> Exception:
        run = waits.step_begins(KEY)
        assert run is not None
        waits.withdraw(run)
        return psycopg2.OperationalError("away")

    gone.append(goes_on)
    waits.wait(*KEY, kind="sleep", seconds=60).begin()
    wait_until(lambda: not gone, "the release is tried")
    waits.stop()
    assert waits.runs.leaving == {}


def test_a_step_that_waits_is_ended_by_a_cancel_and_not_published(table: _Table, waits: Waits) -> None:
    wait = waits.wait("w", None, "event", "other/key", seconds=60)
    wait.begin()
    threading.Event().wait(0.1)
    assert table.told == 0
    waits.cancellations.lost([("w", None)])
    with pytest.raises(dbos_error.DBOSWorkflowCancelledError):
        wait.block(5)
    wait.end()
    assert not waits.cancellations.watched()


def test_a_wait_that_is_refused_keeps_no_other_back(table: _Table, waits: Waits) -> None:
    table.refused = "odd"
    for workflow_id in ("odd", "other"):
        waits.wait(workflow_id, "claim", "sleep", seconds=60).begin()
    wait_until(lambda: "other" in table.rows, "it is told")
    assert "odd" not in table.rows
    run = waits.step_begins(("odd", "claim"))
    assert run is None, "nothing of it to withdraw"


@pytest.mark.parametrize("seconds", [math.inf, 1e300])
def test_an_end_that_no_timestamp_can_say_is_not_published(
    table: _Table, waits: Waits, seconds: float
) -> None:
    waits.wait(*KEY, kind="message", seconds=seconds).begin()
    assert told(table)["seconds"] is None


def test_a_cancelled_task_goes_on_only_after_its_wait_is_withdrawn(table: _Table, waits: Waits) -> None:
    begun, may_end = threading.Event(), threading.Event()
    wait = waits.wait(*KEY, kind="message")
    wait.begin()
    told(table)
    run_statement = table.run

    def slow(name: str, /, **params: Any) -> list[Row]:
        begun.set()
        assert may_end.wait(20)
        return run_statement(name, **params)

    async def cancelled() -> None:
        ends = asyncio.ensure_future(wait.end_async())
        await asyncio.to_thread(begun.wait, 20)
        ends.cancel()
        assert await asyncio.wait({ends}, timeout=0.05) == (set(), {ends})
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await ends
        assert table.rows == {}

    waits._statement = slow
    asyncio.run(cancelled())
