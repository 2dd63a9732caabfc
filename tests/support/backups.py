"""A backup during work, the loss of everything, and a restore: the same checks for every backend."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support import faults, scenes
from tests.support.command import holdfast, told
from tests.support.reporting import record
from tests.support.stack import Stack, running_stack, wait_for

NUMBERS = [33] * 28
STEPS = 20


def check_backup_into_an_empty_stack(make: Callable[[], Stack], directory: Path) -> None:
    """Unfinished work of the backup finishes in an empty stack, finished work stays, the audit is clean."""
    file = directory / "holdfast.backup"
    with running_stack(make()) as first:
        work = _work(first)
        saved = told(first, "backup", str(file))
        record("backup under load, seconds", saved["seconds"])
        assert saved["by_status"]["PENDING"] > 0
        assert saved["by_status"]["ENQUEUED"] > 0
        late = first.start_batch(numbers=[5])
        first.finished_batch(late, 120)
        lost = set(first.executors())
        again = holdfast(first, "backup", str(file))
        assert (again.returncode, "--force" in again.stderr) == (1, True), again.stderr
        _refused(first, file)
    with running_stack(make()) as second:
        begun = time.time()
        restored = told(second, "restore", str(file))
        record("restore, API and workers stopped and started, seconds", restored["seconds"])
        same = ("file", "begun_at", "postgres", "workflows", "unfinished", "by_status")
        assert {name: restored[name] for name in same} == {name: saved[name] for name in same}
        _finishes(second, work)
        assert second.request("GET", f"/workflows/{late}").status_code == 404
        _nobody_is_blamed(second, lost, begun)
        _refused(second, file)
        _audit(second)


PLACEHOLDER = f"COMMENT ON SCHEMA ops IS '{'x' * 400}'"
"""Run before a backup, so that its archive has a statement which `tamper` can replace by one as long."""


def tamper(file: Path, statement: str) -> None:
    """Changes an archive so that its restore runs a statement of somebody else."""
    archive = file.read_bytes()
    assert archive.count(PLACEHOLDER.encode()) == 1
    file.write_bytes(archive.replace(PLACEHOLDER.encode(), statement.encode().ljust(len(PLACEHOLDER))))


def make_file(stack: Stack, directory: Path) -> Path:
    """Makes a backup of the stack, with one finished batch. Returns the file."""
    path = directory / "holdfast.backup"
    stack.finished_batch(stack.start_batch(numbers=[1, 2, 3]), 60)
    told(stack, "backup", str(path))
    return path


def _work(stack: Stack) -> dict[str, Any]:
    """Starts work: one piece that has ended, several that run, some that wait."""
    done = stack.start_batch(numbers=[10, 20])
    stack.finished_batch(done, 60)
    key = {"Idempotency-Key": f"backup-{time.time_ns()}"}
    keyed = stack.post("/fibonacci/batches", {"numbers": NUMBERS}, headers=key)["workflow_id"]
    scope = stack.post("/scope/class", {"steps": STEPS, "step_seconds": 0.8})["workflow_id"]
    wait_for(
        lambda: (
            (b := stack.batch(keyed))["completed"] >= 2
            and b["completed"] <= len(NUMBERS) // 4
            and len(stack.get(f"/workflows/{scope}/steps")["steps"]) >= 3
        ),
        60,
        "work in its middle",
    )
    return {"done": done, "keyed": keyed, "key": key, "scope": scope}


def _finishes(stack: Stack, work: dict[str, Any]) -> None:
    batch = stack.finished_batch(work["keyed"], 180)
    scenes.check_batch(batch, NUMBERS)
    faults.check_effects(stack, batch)
    assert stack.finished(work["scope"], 60)["output"]["counters"]["durable"] == STEPS
    scenes.check_batch(stack.batch(work["done"]), [10, 20])
    same = stack.post("/fibonacci/batches", {"numbers": NUMBERS}, headers=work["key"])
    assert same["workflow_id"] == work["keyed"]


def _nobody_is_blamed(stack: Stack, lost: set[str], begun: float) -> None:
    rows = stack.query("SELECT executor_id, reason FROM ops.executors WHERE state = 'dead'")
    assert rows
    assert {row["reason"] for row in rows} == {"restored from a backup"}
    assert {row["executor_id"] for row in rows} <= lost
    assert stack.query("SELECT workflow_id FROM ops.crashes") == []
    moves = stack.query(
        "SELECT DISTINCT kind, reason FROM ops.handovers"
        f" WHERE released_at > to_timestamp({begun}) AND kind <> 'handover'"
    )
    assert moves == [{"kind": "orphan", "reason": "no live executor"}]
    # The schedule backfilled at most the last minute, however old the backup is.
    pulses = stack.query(f"SELECT count(*) AS n FROM ops.pulses WHERE started_at > to_timestamp({begun})")
    assert pulses[0]["n"] <= (time.time() - begun + 65) / 5 + 2


def _refused(stack: Stack, file: Path) -> None:
    """A restore into a stack with work is refused: nothing stops and nothing changes."""
    before = stack.api().executor_id
    done = holdfast(stack, "restore", str(file))
    assert done.returncode == 1
    assert "--replace" in done.stderr
    unsure = holdfast(stack, "restore", str(file), "--replace")
    assert (unsure.returncode, "--yes" in unsure.stderr) == (1, True), unsure.stderr
    assert stack.api().executor_id == before


def _audit(stack: Stack) -> None:
    findings = told(stack, "verify", "--idle")["findings"]
    assert {finding["invariant"] for finding in findings} == set(range(1, 10))
    assert [finding["details"] for finding in findings if not finding["ok"]] == []
