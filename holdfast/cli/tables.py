"""Tables that stay readable in a narrow terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from holdfast.visible import visible

_GAP = 2
_PROSE_WIDTH = 24
"""Width that suffices for a cell of several words, which is wrapped at its spaces. Other cells stay whole."""


class FittedTable:
    """A table that gives up what matters least if it is wider than the terminal.

    First go columns without any value, then those of ``droppable`` in their order. If that does not suffice,
    the first column (what a row is about) gets a line of its own above the others, which then are dropped
    only as far as that needs. A last line names the dropped columns that have values.
    """

    def __init__(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], droppable: Sequence[str] = ()
    ) -> None:
        self._title = title
        self._columns = list(columns)
        self._rows = [[_cell(value) for value in row] for row in rows]
        self._empty = [n for n in range(len(columns)) if rows and all(row[n] is None for row in rows)]
        self._droppable = [self._columns.index(name) for name in droppable]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not console.is_terminal and "COLUMNS" not in os.environ:
            # A file or another program gets everything, one line per row.
            width = max(options.max_width, cell_len(visible(self._title)), self._whole_width())
            options = options.update(width=width)
        for part in self._parts(options.max_width):
            yield from console.render(part, options)

    def _parts(self, width: int) -> Iterator[RenderableType]:
        # rich's own table title would wrap at the width of a short table.
        yield Text(visible(self._title), style="italic")
        if not self._rows:
            return
        every = list(range(len(self._columns)))
        shown, is_whole = self._fitting(every, width)
        if is_whole:
            yield self._grid(
                shown, width, [self._heads(shown), *([row[n] for n in shown] for row in self._rows)]
            )
        else:
            shown, _ = self._fitting(every[1:], width - _GAP)
            yield Text(self._columns[0], style="bold")
            yield self._below(shown, width, self._heads(shown))
            for row in self._rows:
                yield row[0]
                yield self._below(shown, width, [row[n] for n in shown])
            shown = [0, *shown]
        if lost := [self._columns[n] for n in every if n not in shown and n not in self._empty]:
            yield Text(f"not shown at this width: {', '.join(lost)}", style="dim")

    def _whole_width(self) -> int:
        columns = range(len(self._columns))
        return sum(self._width(n, prose=sys.maxsize) for n in columns) + _GAP * (len(columns) - 1)

    def _fitting(self, columns: list[int], width: int) -> tuple[list[int], bool]:
        """Returns the columns that are left when enough are dropped, and whether these fit."""
        steps = [self._empty, *([n] for n in self._droppable)]
        for step in [[], *steps]:
            columns = [n for n in columns if n not in step]
            if self._needed(columns) <= width:
                return columns, True
        return columns, False

    def _needed(self, columns: list[int]) -> int:
        return sum(self._width(n, prose=_PROSE_WIDTH) for n in columns) + _GAP * (len(columns) - 1)

    def _width(self, column: int, *, prose: int) -> int:
        """Returns the width of the widest cell, where one of several words counts as at most ``prose``."""
        cells = [self._columns[column], *(row[column].plain for row in self._rows)]
        return max(min(cell_len(text), prose) if " " in text else cell_len(text) for text in cells)

    def _heads(self, columns: list[int]) -> list[Text]:
        return [Text(self._columns[n], style="bold") for n in columns]

    def _below(self, columns: list[int], width: int, cells: list[Text]) -> Padding:
        return Padding(self._grid(columns, width - _GAP, [cells]), (0, 0, 0, _GAP), expand=False)

    def _grid(self, columns: list[int], width: int, rows: list[list[Text]]) -> Table:
        """Builds lines of cells. All grids of one table have the same widths of their columns."""
        widths = [self._width(n, prose=_PROSE_WIDTH) for n in columns]
        left = width - sum(widths) - _GAP * (len(widths) - 1)
        for place, n in enumerate(columns):
            more = max(0, min(left, self._width(n, prose=width) - widths[place]))
            widths[place] += more
            left -= more
        while left < 0 and max(widths, default=1) > 1:  # the last resort: the widest cells are folded
            widths[widths.index(max(widths))] -= 1
            left += 1
        grid = Table.grid(padding=(0, _GAP, 0, 0), pad_edge=False)
        for each in widths:
            grid.add_column(width=each, overflow="fold")
        for cells in rows:
            grid.add_row(*cells)
        return grid


def _cell(value: Any) -> Text:
    return value if isinstance(value, Text) else Text("–" if value is None else visible(str(value)))  # noqa: RUF001
