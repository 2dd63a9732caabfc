"""Writes the table of tests/support/matrix.py: what each cell survived, or why there is no such cell."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.support.matrix import MODES, PRIMITIVES, SCOPES, STARTS, Cell, Fault, reason

_HEAD = """# Every way to write, start and use a workflow, through every end of its process

`make matrix ROUNDS=20 CELLS=diagonal` makes this report; without `CELLS` it is made of all cells. An
application that does not know Holdfast (tests/attached_apps/matrix.py) runs under `holdfast run`. All its
workflows are held at one point, their process ends, and a second process goes on. A cell counts if the
workflow's result, its recorded steps, its transaction, its stream, its queue, priority and partition key are
those of an undisturbed run, and if no step ran again that had been recorded: only the one that was
interrupted.

"""


class Report:
    """Collects what became of each cell in each round."""

    def __init__(self) -> None:
        self._rounds: Counter[Fault] = Counter()
        self._survived: Counter[Cell] = Counter()
        self._tried: Counter[Cell] = Counter()
        self._cells: dict[Fault, int] = {}

    def add(self, fault: Fault, cells: list[Cell], wrong: dict[Cell, list[str]]) -> None:
        """Adds one round of these cells; ``wrong`` holds those with a fault."""
        self._rounds[fault] += 1
        self._cells[fault] = len(cells)
        self._tried.update(cells)
        self._survived.update(cell for cell in cells if cell not in wrong)

    def text(self) -> str:
        """Returns the report in Markdown."""
        lines = [
            _HEAD,
            "| how the process ended | where the workflows were | rounds | cells |",
            "|---|---|--:|--:|",
        ]
        lines += [
            f"| {f.kind} | {f.point} | {count} | {self._cells[f]} |" for f, count in self._rounds.items()
        ]
        reasons: dict[str, int] = {}
        for mode in MODES:
            for scope in SCOPES:
                lines += [
                    "",
                    f"## {mode}, {scope}",
                    "",
                    "Survived, of the rounds with this cell (-: none).",
                    "",
                ]
                lines += ["| started | " + " | ".join(PRIMITIVES) + " |", "|---|" + "--:|" * len(PRIMITIVES)]
                for start in STARTS:
                    texts = []
                    for primitive in PRIMITIVES:
                        cell = (mode, scope, start, primitive)
                        why = reason(cell)
                        texts.append(
                            self._said_of(cell)
                            if why is None
                            else f"[{reasons.setdefault(why, len(reasons) + 1)}]"
                        )
                    lines.append(f"| {start} | " + " | ".join(texts) + " |")
        lines += ["", *(f"[{number}] {why}." for why, number in reasons.items())]
        return "\n".join(lines) + "\n"

    def _said_of(self, cell: Cell) -> str:
        return f"{self._survived[cell]}/{self._tried[cell]}" if self._tried[cell] else "-"

    def write(self, path: Path) -> None:
        """Writes the report."""
        path.write_text(self.text(), "utf-8")
