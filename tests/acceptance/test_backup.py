"""Backup and restore of a native stack, as an operator does it and as it goes wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support import backups
from tests.support.command import command, environment, holdfast, started, told
from tests.support.native_stack import NativeStack
from tests.support.stack import ROOT, clean_environment, running_stack, wait_for

pytestmark = pytest.mark.timeout(600)

WAITING = "SELECT pid FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
"""The restore's session: it is about to drop what somebody reads."""


def clean(home: Path) -> None:
    """Delete all of a stack."""
    subprocess.run(
        [sys.executable, "-m", "holdfast.installations.native", "clean", "--data", str(home)],
        cwd=ROOT,
        env=clean_environment(),
        check=True,
        capture_output=True,
        timeout=120,
    )


def test_work_goes_on_in_an_empty_stack(tmp_path: Path) -> None:
    made: list[NativeStack] = []

    def make() -> NativeStack:
        if made:
            clean(made[-1].home)
        made.append(NativeStack(tmp_path / f"stack-{len(made)}"))
        return made[-1]

    try:
        backups.check_backup_into_an_empty_stack(make, tmp_path)
    finally:
        clean(made[-1].home)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeStack]:
    """One stack for what goes wrong."""
    home = tmp_path_factory.mktemp("backup")
    with running_stack(NativeStack(home, workers=1)) as started:
        yield started
    clean(home)


@pytest.fixture(scope="module")
def file(stack: NativeStack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return backups.make_file(stack, tmp_path_factory.mktemp("files"))


@contextmanager
def waiting_restore(stack: NativeStack, file: Path) -> Iterator[subprocess.Popen[str]]:
    """A restore that waits for somebody's lock; ended with the context, as the lock is."""
    with closing(stack.connect()) as connection:
        connection.cursor().execute("LOCK TABLE ops.effects IN ACCESS SHARE MODE")
        restore = started(stack, "restore", str(file), "--replace", "--yes")
        try:
            wait_for(lambda: stack.query(WAITING), 60, "the restore waits for the lock")
            yield restore
        finally:
            restore.kill()
            restore.communicate()


def works(stack: NativeStack) -> None:
    """It runs, takes work and finishes it."""
    wait_for(lambda: stack.state.get("ready"), 60, "the stack is ready")
    stack.workers()
    stack.finished_batch(stack.start_batch(numbers=[1]), 60)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_restore_that_is_ended_changes_nothing(
    stack: NativeStack, file: Path, signum: signal.Signals
) -> None:
    """It waits for somebody's lock when the signal comes; API and workers start again by themselves."""
    mine = stack.start_batch(numbers=[4])
    stack.finished_batch(mine, 60)
    before = stack.api().executor_id
    with waiting_restore(stack, file) as restore:
        assert stack.state["held"]
        assert stack.state["api"]["pid"] is None
        second = holdfast(stack, "restore", str(file), "--replace", "--yes")
        assert (second.returncode, "another restore" in second.stderr) == (1, True), second.stderr
        restore.send_signal(signum)
        _, said = restore.communicate(timeout=150)
        assert restore.returncode == (-signal.SIGKILL if signum == signal.SIGKILL else 1), said
        wait_for(lambda: not stack.query(WAITING), 10, "its session ends")
    works(stack)
    assert stack.batch(mine)["status"] == "SUCCESS"
    assert stack.api().executor_id != before


def test_postgres_ends_in_the_middle_of_a_restore(stack: NativeStack, file: Path) -> None:
    """The supervisor starts it again, and then everything else."""
    mine = stack.start_batch(numbers=[5])
    stack.finished_batch(mine, 60)
    with waiting_restore(stack, file) as restore:
        os.kill(stack.state["postgres"]["pid"], signal.SIGQUIT)
        _, said = restore.communicate(timeout=150)
    assert restore.returncode == 1
    assert "nothing was changed" in said
    works(stack)
    assert stack.batch(mine)["status"] == "SUCCESS"


def test_a_cut_file_stops_nobody(stack: NativeStack, file: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    cut.write_bytes(file.read_bytes()[:-100])
    before = stack.api().executor_id
    done = holdfast(stack, "restore", str(cut), "--replace", "--yes")
    assert done.returncode == 1
    assert "cannot be read to its end" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert stack.api().executor_id == before


def test_replace_puts_the_backup_in_the_place_of_what_is_there(stack: NativeStack, file: Path) -> None:
    later = stack.start_batch(numbers=[6])
    stack.finished_batch(later, 60)
    answer = told(stack, "restore", str(file), "--replace", "--yes")
    assert answer["replaced_workflows"] > 0
    assert stack.request("GET", f"/workflows/{later}").status_code == 404
    works(stack)


def test_no_file_without_postgres(stack: NativeStack, tmp_path: Path) -> None:
    with stack.postgres_down():
        done = holdfast(stack, "backup", str(tmp_path / "b"))
    assert done.returncode == 1
    assert "refused" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
    stack.workers()


def test_no_file_where_nothing_runs(tmp_path: Path) -> None:
    nowhere = NativeStack(tmp_path / "nowhere")
    for words in (("backup", str(tmp_path / "b")), ("restore", str(tmp_path / "b"))):
        done = subprocess.run(
            command(*words),
            cwd=ROOT,
            env={**environment(nowhere), "COMPOSE_PROJECT_NAME": "holdfast-test-none"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1
        assert "holdfast up" in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert list(tmp_path.iterdir()) == []
