"""Every kind of wait under every kind of fault, for sync, async and typed workflows: one table.

The waits of a fault begin together, on two workers; the fault comes once; then what they wait for comes.
Right is: the result, a sleep's end when it is due, a message consumed once, no crash counted, no suspect; a
cancel ends the body.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from dbos import DBOSClient

from tests.support import waiting_workflows as waiting
from tests.support.failover import read_only
from tests.support.native_stack import NativeStack
from tests.support.reporting import show
from tests.support.stack import Member, running_stack, wait_for
from tests.support.waits_under_faults import KINDS, STYLES, Cell, Round, client_of

CANCEL_SECONDS = 20.0
"""From the order to the end of the body, of ten minutes' waits, on a machine that does other things too."""
STOP_SECONDS = 12.0
"""Of a worker that only waits; 20 s are its drain's limit."""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("marks")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, out: Path) -> Iterator[NativeStack]:
    """One stack for the module."""
    started = NativeStack(
        tmp_path_factory.mktemp("matrix"),
        HOLDFAST_MODULES="tests.support.waiting_workflows",
        WAITING_OUT=str(out),
        HOLDFAST_CRASH_LIMIT="4",
    )
    with running_stack(started):
        yield started


@pytest.fixture(scope="module")
def client(stack: NativeStack) -> Iterator[DBOSClient]:
    with client_of(stack) as made:
        yield made


@pytest.fixture(scope="module")
def table() -> Iterator[dict[str, list[Cell]]]:
    """The cells of all faults, shown at the end."""
    cells: dict[str, list[Cell]] = {}
    yield cells
    width = max(map(len, KINDS)) + 7
    lines = [" " * width + "".join(f"{fault:>12}" for fault in cells)]
    for style in STYLES:
        for kind in KINDS:
            verdicts = []
            for found in cells.values():
                mine = [cell for cell in found if (cell.kind, cell.style) == (kind, style)]
                verdicts.append("-" if not mine else "FAIL" if mine[0].wrong else "pass")
            lines.append(f"{kind + ', ' + style:<{width}}" + "".join(f"{each:>12}" for each in verdicts))
    lines += [f"{cell.id}: {why}" for found in cells.values() for cell in found for why in cell.wrong]
    show("waits under faults", lines)


Begin = Callable[..., Round]


@pytest.fixture
def begin(stack: NativeStack, client: DBOSClient, table: dict[str, list[Cell]]) -> Iterator[Begin]:
    begun: list[Round] = []

    def one(fault: str, sleep_seconds: float) -> Round:
        stack.workers()
        made = Round(stack, client, fault, sleep_seconds)
        table[fault] = made.cells
        begun.append(made)
        made.begin()
        return made

    yield one
    # What a failed test left would hold the places of the next one.
    for made in begun:
        made.cancel()


def _replaced(stack: NativeStack, before: list[Member], seconds: float = 30) -> None:
    gone = {member.executor_id for member in before}
    wait_for(lambda: not gone & {member.executor_id for member in stack.workers()}, seconds, "new executors")


def test_death(stack: NativeStack, begin: Begin) -> None:
    """SIGKILL of one worker, then of the other: each wait meets one at least, most two."""
    made = begin("death", 15.0)
    for member in stack.workers():
        stack.crash(member)
        _replaced(stack, [member])
    wrong = made.settle()
    assert not wrong, "\n".join(wrong)


def test_hang(stack: NativeStack, begin: Begin) -> None:
    """A step holds the interpreter's lock, on one worker and, once all wait again, where they are then."""
    made = begin("hang", 32.0)
    for number in range(2):
        before = {member.executor_id for member in stack.workers()}
        blocker = f"hang-blocker-{number}"
        made.enqueue("waiting.blocker", waiting.RUNNING, blocker, 1)
        wait_for(
            lambda before=before: before - {member.executor_id for member in stack.workers()},
            40,
            "the blocked worker is replaced",
        )
        stack.finished(blocker, 20)
        made.all_wait()
    wrong = made.settle()
    assert not wrong, "\n".join(wrong)


def test_poison(stack: NativeStack, begin: Begin) -> None:
    """It kills each process within milliseconds of its claim: also before the next execution waits again."""
    made = begin("poison", 22.0)
    made.enqueue("waiting.typed.poison", waiting.RUNNING, "poison-poison")
    parked = "MAX_RECOVERY_ATTEMPTS_EXCEEDED"
    wait_for(lambda: stack.get("/workflows/poison-poison")["status"] == parked, 60, "it is parked")
    stack.workers()
    made.check_blame()
    wrong = made.settle()
    assert not wrong, "\n".join(wrong)


def test_drain(stack: NativeStack, begin: Begin) -> None:
    """SIGTERM of both: a worker that only waits stops at once."""
    made = begin("drain", 12.0)
    took = []
    for member in stack.workers():
        asked = time.monotonic()
        stack.stop(member)
        assert stack.exited(member, 30).code == 0
        took.append(time.monotonic() - asked)
        _replaced(stack, [member])
    wrong = made.settle()
    assert not wrong, "\n".join(wrong)
    assert max(took) <= STOP_SECONDS, took


def test_failover(stack: NativeStack, begin: Begin) -> None:
    """A server that only reads for 3 s, then one that is stopped for 2 s."""
    made = begin("failover", 15.0)
    with closing(stack.connect_superuser()) as connection:
        connection.autocommit = True
        with read_only(connection.cursor().execute):
            time.sleep(3)
    time.sleep(1)
    with stack.postgres_down():
        time.sleep(2)
    wait_for(lambda: stack.executors() and stack.workers(), 30, "the workers are back")
    wrong = made.settle()
    assert not wrong, "\n".join(wrong)


def test_cancel(stack: NativeStack, begin: Begin, out: Path) -> None:
    """The body ends, and what it waited for stays."""
    made = begin("cancel", 600.0)
    asked: dict[str, float] = {}
    for cell in made.cells:
        stack.post(f"/workflows/{cell.id}/cancel")
        asked[cell.id] = time.time()
    deadline = time.monotonic() + CANCEL_SECONDS + 2
    for cell in made.cells:
        mark = out / cell.id
        while not mark.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        if not mark.exists():
            cell.wrong.append("its body goes on")
            continue
        seconds = float(mark.read_text().split()[0]) - asked[cell.id]
        if seconds > CANCEL_SECONDS:
            cell.wrong.append(f"ended after {seconds:.1f} s")
    statuses = made.rows(
        "SELECT workflow_uuid AS id, status FROM dbos.workflow_status WHERE workflow_uuid IN ({})", made.ids
    )
    by_id = {cell.id: cell for cell in made.cells}
    for row in statuses:
        if row["status"] != "CANCELLED":
            by_id[row["id"]].wrong.append(row["status"])
    made.check_blame()
    left = "SELECT workflow_id FROM ops.waits WHERE workflow_id IN ({})"
    wait_for(lambda: not made.rows(left, made.ids), 5, "no wait is told of what is cancelled")
    made.release()
    assert not made.wrong, "\n".join(made.wrong)
