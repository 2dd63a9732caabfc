"""Each way to write, start and use a workflow survives each end of its process, in a foreign application.

Each fault meets a fifth of the cells, so that together they meet all. With ``MATRIX_ROUNDS`` each fault meets
all cells so many times (with ``MATRIX_CELLS=diagonal`` those of the main diagonal), and ``MATRIX_REPORT``
names the file for the table (see the Makefile).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.attached import app_runner
from tests.support.database import Database, Server
from tests.support.matrix import CELLS, DIAGONAL, Cell, Fault, MatrixRun, Outcome, faults_of
from tests.support.matrix_report import Report

_ROUNDS = int(os.environ.get("MATRIX_ROUNDS", "0"))
_CELLS = DIAGONAL if os.environ.get("MATRIX_CELLS") == "diagonal" else CELLS
_FAULTS = (
    Fault("killed", "before"),
    Fault("killed", "during"),
    Fault("killed", "after"),
    Fault("terminated", "during"),
    Fault("drained", "during"),
)


@pytest.fixture(scope="module")
def undisturbed(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[Cell, Outcome]:
    """What plain DBOS makes of each cell, without Holdfast and without a fault."""
    with Database.lent(server) as database, app_runner(database, tmp_path_factory.mktemp("plain")) as apps:
        apps.under = ()
        found = MatrixRun(apps, Fault("none"), _CELLS).run()
    assert {cell: outcome for cell, outcome in found.items() if outcome.status != "SUCCESS"} == {}
    return found


@pytest.fixture(scope="module")
def report() -> Report:
    return Report()


@pytest.mark.parametrize("fault", [fault for _ in range(max(_ROUNDS, 1)) for fault in _FAULTS], ids=str)
@pytest.mark.timeout(600)
def test_every_cell_goes_on(
    database: Database, tmp_path: Path, undisturbed: dict[Cell, Outcome], report: Report, fault: Fault
) -> None:
    cells = _CELLS if _ROUNDS else CELLS[_FAULTS.index(fault) :: len(_FAULTS)]
    try:
        with app_runner(database, tmp_path) as apps:
            found = MatrixRun(apps, fault, cells).run()
    except Exception:
        _add(report, fault, cells, {cell: ["the round did not end"] for cell in cells})
        raise
    wrong = {
        cell: faults
        for cell, outcome in found.items()
        if (faults := faults_of(cell, outcome, undisturbed[cell], fault))
    }
    _add(report, fault, cells, wrong)
    assert wrong == {}


def _add(report: Report, fault: Fault, cells: list[Cell], wrong: dict[Cell, list[str]]) -> None:
    """Adds a round and writes the report, so that a run may be ended at any time."""
    report.add(fault, cells, wrong)
    if path := os.environ.get("MATRIX_REPORT"):
        report.write(Path(path))
