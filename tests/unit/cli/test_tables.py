"""Tables at any width: no cell is cut, no id is broken, and what is dropped is named."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from holdfast.cli import checks, operations, shown, watch, work
from holdfast.cli.tables import FittedTable
from tests.unit.cli.test_cli import progress, snapshot

BATCH = "batch-09e61ac20cb04f95bd33e8d08368141a-30"
HOST, CONTAINER = "worker-vm-7da60ed9", "worker-3f2a9c1b7d5e-7da60ed9"


def drawn(shown: Any, width: int) -> list[str]:
    console = Console(
        width=width, file=io.StringIO(), highlight=False, force_terminal=True, color_system=None
    )
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    return lines


LONG = "a" * 20
COLUMNS, ROWS = ["id", "state", "why", "at"], [[LONG, "live", None, "0.4 s"], ["b", "dead", None, "9 s"]]


@pytest.mark.parametrize(
    ("width", "words"),
    [
        (50, f"id state why at {LONG} live - 0.4 s b dead - 9 s"),
        (35, f"id state at {LONG} live 0.4 s b dead 9 s"),
        (28, f"id state {LONG} live b dead not shown at this width: at"),
        (22, f"id state why at {LONG} live - 0.4 s b dead - 9 s"),
        (13, f"id state {LONG[:13]} {LONG[13:]} live b dead not shown at this width: at"),
    ],
    ids=["all", "without the empty one", "without the least", "ids on their own lines", "ids are folded"],
)
def test_a_table_gives_up_what_matters_least(width: int, words: str) -> None:
    lines = drawn(FittedTable("2 rows", COLUMNS, ROWS, droppable=["at"]), width)
    dash = "\N{EN DASH}"
    assert lines[0] == "2 rows"
    assert " ".join(" ".join(lines[1:]).split()) == words.replace(" - ", f" {dash} ")


def test_what_is_no_terminal_gets_every_column_in_one_line_a_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file or a program reads it. COLUMNS asks for a width all the same."""
    words = "several words " * 20
    table = FittedTable("2 rows", COLUMNS, [[LONG * 3, words, None, LONG], ["b", "c", None, "d"]], ["at"])
    for columns in (None, "70"):
        monkeypatch.delenv("COLUMNS", raising=False)
        if columns is not None:
            monkeypatch.setenv("COLUMNS", columns)
        monkeypatch.setattr(shown, "console", shown.SafeConsole(highlight=False))
        shown.show(None, as_json=False, human=lambda: table)
        lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
        whole = ["2 rows", "id state why at", f"{LONG * 3} {words}\N{EN DASH} {LONG}", "b c \N{EN DASH} d"]
        assert (lines == whole) == (columns is None)


def moved(executor: str) -> dict[str, Any]:
    return {
        "workflow_id": BATCH, "kind": "takeover", "reason": "lock lost", "from_executor": executor,
        "to_executor": executor[:-1] + "e", "takeover_seconds": 0.16, "slot_wait_seconds": 4.03,
    }  # fmt: skip


def process(executor: str, **columns: Any) -> dict[str, Any]:
    return {
        "executor_id": executor, "application": "holdfast-worker", "state": "live", "slots": 2,
        "heartbeat_age_seconds": 0.6, "in_flight": 3, "reason": None, "taken_over_by": None, **columns,
    }  # fmt: skip


@pytest.mark.parametrize("executor", [HOST, CONTAINER])
@pytest.mark.parametrize("name", ["handovers", "executors", "operations", "watch"])
def test_at_eighty_columns_every_id_and_time_is_in_one_piece(
    name: str, executor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    data = snapshot()
    data["executors"][0]["executor_id"] = data["executors"][1]["taken_over_by"] = executor
    data["moves"] = [data["moves"][0] | {"workflow_id": BATCH, "from": executor, "to": executor}]
    dead = process(executor, state="dead", reason="lock lost", taken_over_by=executor[:-1] + "e")
    heir = executor[:-1] + "e"
    made, pieces = {
        "handovers": (checks._handovers_table([moved(executor)]), [BATCH, executor, "0.16 s", "4.03 s"]),
        "executors": (work._executors_table([process(executor), dead]), [executor, heir, "dead"]),
        "operations": (
            operations._table([progress("RUNNING", 3, operation_id=BATCH, note="waits for worker-a")]),
            [BATCH, "RUNNING", "cancel"],
        ),
        "watch": (watch._lanes(data), [executor, "● live"]),
    }[name]  # fmt: skip
    text = "\n".join(drawn(made, 80))
    assert [piece for piece in pieces if piece not in text] == []
