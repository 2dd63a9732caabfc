"""Runs every cell of tests/attached_apps/matrix.py through one fault, and compares with an undisturbed run.

All cells run in one process and are held at one point; then that process ends, and a second one goes on.
"""

from __future__ import annotations

import json
import pickle
from base64 import b64decode
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.support.attached import AppProcess, AppRunner
from tests.support.database import wait_until

MODES = ("sync", "async")
SCOPES = ("function", "instance", "static")
STARTS = (
    "direct",
    "queued",
    "worker-limit",
    "global-limit",
    "rate-limit",
    "priority",
    "partition",
    "deduplication",
    "delay",
    "scheduled",
    "debounced",
    "child",
)
PRIMITIVES = ("step", "retried", "sleep", "message", "event", "stream", "transaction", "patch", "gather")
WAITS = ("sleep", "message", "event")

Cell = tuple[str, str, str, str]
"""Mode, scope, start, primitive."""


def reason(cell: Cell) -> str | None:
    """Returns why there is no such cell, or None."""
    mode, scope, start, primitive = cell
    if primitive == "gather" and mode == "sync":
        return "asyncio.gather belongs to async code"
    if scope == "instance" and start in ("scheduled", "debounced"):
        return f"DBOS refuses a method of an instance: {start}"
    return None


CELLS: list[Cell] = [
    cell
    for mode in MODES
    for scope in SCOPES
    for start in STARTS
    for primitive in PRIMITIVES
    if reason(cell := (mode, scope, start, primitive)) is None
]

DIAGONAL: list[Cell] = [
    cell for cell in CELLS if STARTS.index(cell[2]) % len(PRIMITIVES) == PRIMITIVES.index(cell[3])
]
"""Every mode, scope, start and primitive, each start with one primitive."""


@dataclass(frozen=True)
class Fault:
    """How the process ends that runs all cells, and where they are then."""

    kind: str
    """killed, terminated, drained, or none for the undisturbed run."""
    point: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.point}".strip()


@dataclass
class Outcome:
    """What the database says of one cell after a run."""

    status: str = "never started"
    output: Any = None
    steps: list[str] = field(default_factory=list)
    place: tuple[Any, ...] = ()
    """Queue, priority and partition key."""
    effects: int = 0
    stream: list[Any] = field(default_factory=list)
    runs: Counter[str] = field(default_factory=Counter)
    """How often the body of the step at each point ran."""


class MatrixRun:
    """One run of all cells."""

    def __init__(self, apps: AppRunner, fault: Fault, cells: list[Cell], *, seconds: float = 120) -> None:
        self._apps = apps
        self._fault = fault
        self._cells = cells
        self._seconds = seconds
        self._answered: set[str] = set()

    def run(self) -> dict[Cell, Outcome]:
        """Returns what became of each cell."""
        wait_in_primitive = self._fault.point == "during"
        first = self._start(
            HOLD=self._fault.point,
            NAP_SECONDS="20" if wait_in_primitive else "0.2",
            HOLDFAST_DRAIN_SECONDS="1",
        )
        self._order(first, [list(cell) for cell in self._cells])
        if self._fault.kind != "none":
            self._until_held(first, answering=not wait_in_primitive)
            second = self._start()
            self._end(first)
        else:
            second = first
        self._until_ended(second)
        return self._outcomes()

    def _start(self, **environment: str) -> AppProcess:
        return self._apps.app(
            "matrix", MATRIX_DATABASE_URL=self._apps.url, MATRIX_LOG=str(self._apps.step_log), **environment
        )

    def _order(self, process: AppProcess, orders: list[list[str]]) -> None:
        assert process.popen.stdin is not None
        process.popen.stdin.write(json.dumps(orders) + "\n")
        process.popen.stdin.flush()

    def _notes(self) -> list[tuple[int, str, str, str]]:
        return [(pid, point, cell, workflow_id) for _, pid, point, cell, workflow_id in self._apps.notes()]

    def _until_held(self, process: AppProcess, *, answering: bool) -> None:
        wanted = {name for cell in self._cells for name in _names_at(cell, self._fault.point)}

        def held() -> bool:
            if answering:
                self._answer(process)
            assert process.popen.poll() is None, process.output()
            return wanted <= {name for _, point, name, _ in self._notes() if point == self._fault.point}

        wait_until(held, f"all cells are at the point {self._fault.point}", seconds=self._seconds)

    def _answer(self, process: AppProcess) -> None:
        orders = []
        for _, point, cell, workflow_id in self._notes():
            primitive = cell.split()[3]
            if point == "during" and primitive in ("message", "event") and workflow_id not in self._answered:
                self._answered.add(workflow_id)
                orders.append(
                    ["message", workflow_id] if primitive == "message" else ["event", cell, workflow_id]
                )
        if orders:
            self._order(process, orders)

    def _end(self, process: AppProcess) -> None:
        if self._fault.kind == "killed":
            process.kill()
        elif self._fault.kind == "terminated":
            process.stop()
        else:
            self._apps.database.rows(
                "UPDATE ops.executors SET desired_state = 'draining' WHERE pid = %(pid)s", pid=process.pid
            )
            wait_until(
                lambda: self._apps.database.rows(
                    "SELECT pid FROM ops.executors WHERE pid = %(pid)s AND state = 'drained'", pid=process.pid
                ),
                "it has drained",
                seconds=30,
            )
            process.kill()

    def _until_ended(self, process: AppProcess) -> None:
        def ended() -> bool:
            self._answer(process)
            assert process.popen.poll() is None, process.output()
            (row,) = self._apps.database.rows(
                "SELECT count(*) FILTER (WHERE status IN ('ENQUEUED', 'PENDING', 'DELAYED')) AS open,"
                " count(*) AS started FROM dbos.workflow_status"
            )
            return row["started"] >= len(self._cells) and row["open"] == 0

        wait_until(ended, "all workflows end", seconds=self._seconds)

    def _outcomes(self) -> dict[Cell, Outcome]:
        database = self._apps.database
        found = {cell: Outcome() for cell in self._cells}
        cell_of: dict[str, Cell] = {}
        for _, point, name, workflow_id in self._notes():
            mode, scope, start, primitive, *_ = name.split()
            cell = cell_of[workflow_id] = (mode, scope, start, primitive)
            found[cell].runs[point] += 1
        for row in database.rows(
            "SELECT w.workflow_uuid, w.status, o.output, o.error FROM dbos.workflow_status w"
            " LEFT JOIN dbos.workflow_output o USING (workflow_uuid)"
        ):
            if row["workflow_uuid"] in cell_of:
                outcome = found[cell_of[row["workflow_uuid"]]]
                stored = row["output"] or row["error"]
                # The test's own application stored it, as a pickle.
                outcome.status, outcome.output = row["status"], stored and pickle.loads(b64decode(stored))
        for row in database.rows(
            "SELECT workflow_uuid, array_agg(function_name ORDER BY function_id) AS steps"
            " FROM dbos.operation_outputs GROUP BY 1"
        ):
            if row["workflow_uuid"] in cell_of:
                found[cell_of[row["workflow_uuid"]]].steps = row["steps"]
        for row in database.rows(
            "SELECT workflow_uuid, queue_name, priority, queue_partition_key FROM dbos.workflow_status"
        ):
            if row["workflow_uuid"] in cell_of:
                # Started work without a priority goes to the front of its queue: -1.
                place = (row["queue_name"], max(row["priority"], 0), row["queue_partition_key"])
                found[cell_of[row["workflow_uuid"]]].place = place
        for row in database.rows("SELECT workflow_id, count(*) AS effects FROM matrix_effects GROUP BY 1"):
            found[cell_of[row["workflow_id"]]].effects = row["effects"]
        for row in database.rows("SELECT workflow_uuid, count(*) AS values FROM dbos.streams GROUP BY 1"):
            found[cell_of[row["workflow_uuid"]]].stream = [row["values"]]
        return found


def _names_at(cell: Cell, point: str) -> list[str]:
    """Returns the names by which a cell's steps note a point; gathered steps have a number."""
    name = " ".join(cell)
    return [f"{name} {number}" for number in range(3)] if (cell[3], point) == ("gather", "during") else [name]


def faults_of(cell: Cell, outcome: Outcome, reference: Outcome, fault: Fault) -> list[str]:
    """Returns what is wrong with a cell, compared with its undisturbed run. Empty if nothing is."""
    wrong = []
    for what in ("status", "output", "steps", "effects", "stream"):
        if (is_now := getattr(outcome, what)) != (should_be := getattr(reference, what)):
            wrong.append(f"{what}: {is_now!r} instead of {should_be!r}")
    if cell[2] not in ("direct", "child") and outcome.place != reference.place:
        wrong.append(f"place: {outcome.place} instead of {reference.place}")
    for point in ("before", "during", "after"):
        if point == "during" and cell[3] in WAITS:
            continue  # noted by the workflow's body, which is replayed
        runs = reference.runs[point] * (2 if point == fault.point else 1)
        if outcome.runs[point] != runs:
            wrong.append(f"{point}: ran {outcome.runs[point]} times instead of {runs}")
    return wrong
