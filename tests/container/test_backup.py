"""Backup and restore of a Compose project: every volume is gone in between."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import backups
from tests.support.command import holdfast, started, told
from tests.support.compose_stack import ComposeStack
from tests.support.stack import ROOT, running_stack, wait_for

pytestmark = [pytest.mark.container, pytest.mark.timeout(600)]

OURS = "FROM pg_stat_activity WHERE application_name = 'holdfast/backup'"


def test_work_goes_on_in_an_empty_project(image: str, tmp_path: Path) -> None:
    backups.check_backup_into_an_empty_stack(lambda: ComposeStack(image), tmp_path)


@pytest.fixture(scope="module")
def stack(image: str) -> Iterator[ComposeStack]:
    """One project for what goes wrong, its workers scaled by hand."""
    with running_stack(ComposeStack(image, workers=1)) as started:
        yield started


@pytest.fixture(scope="module")
def file(stack: ComposeStack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return backups.make_file(stack, tmp_path_factory.mktemp("files"))


HOLDER = "query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()"


def locked(stack: ComposeStack, mode: str, seconds: int) -> subprocess.Popen[bytes]:
    """Somebody's lock on the ledger, for so long at most."""
    statement = f"BEGIN; LOCK TABLE ops.effects IN {mode} MODE; SELECT pg_sleep({seconds})"
    psql = ["exec", "-T", "postgres", "psql", "-U", "postgres", "-d", "holdfast", "-c", statement]
    process = subprocess.Popen(
        ["docker", "compose", "--project-name", stack.project, "--env-file", "/dev/null", *psql],
        cwd=ROOT,
        env=stack.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    held = f"SELECT pid FROM pg_stat_activity WHERE {HOLDER} AND wait_event = 'PgSleep'"
    wait_for(lambda: stack.query(held), 20, "the lock")
    return process


def unlock(stack: ComposeStack, process: subprocess.Popen[bytes]) -> None:
    stack.query(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {HOLDER}")
    process.wait(20)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_backup_that_is_ended_leaves_neither_file_nor_session(
    stack: ComposeStack, tmp_path: Path, signum: signal.Signals
) -> None:
    """pg_dump in the container waits for a lock; it must not go on when nobody listens."""
    lock = locked(stack, "ACCESS EXCLUSIVE", 100)
    backup = started(stack, "backup", str(tmp_path / "b"))
    try:
        wait_for(lambda: stack.query(f"SELECT pid {OURS} AND wait_event_type = 'Lock'"), 30, "it waits")
        backup.send_signal(signum)
        backup.communicate(timeout=30)
        wait_for(lambda: not stack.query(f"SELECT pid {OURS}"), 10, "its session ends first")
    finally:
        backup.kill()
        backup.communicate()
        unlock(stack, lock)
    if signum == signal.SIGTERM:
        assert list(tmp_path.iterdir()) == []


def test_a_restore_that_is_ended_changes_nothing(stack: ComposeStack, file: Path) -> None:
    """The containers start again, as many as there were; the work is what it was."""
    stack.compose("up", "--detach", "--wait", "--no-build", "--no-recreate", "--scale", "worker=2")
    stack.worker_count = 2
    stack.workers()
    mine = stack.start_batch(numbers=[4])
    stack.finished_batch(mine, 60)
    lock = locked(stack, "ACCESS SHARE", 100)
    restore = started(stack, "restore", str(file), "--replace", "--yes")
    try:
        wait_for(lambda: stack.query(f"SELECT pid {OURS} AND wait_event_type = 'Lock'"), 60, "it waits")
        restore.send_signal(signal.SIGINT)
        _, said = restore.communicate(timeout=150)
        assert (restore.returncode, "interrupted" in said) == (1, True), said
    finally:
        restore.kill()
        restore.communicate()
        unlock(stack, lock)
    stack.workers()
    assert stack.batch(mine)["status"] == "SUCCESS"


def test_a_tampered_archive_has_the_migrators_rights(stack: ComposeStack, tmp_path: Path) -> None:
    psql = ("exec", "-T", "postgres", "psql", "-U", "postgres", "-d", "holdfast", "-qc")
    stack.compose(*psql, backups.PLACEHOLDER)
    tampered = backups.make_file(stack, tmp_path)
    taken = "/tmp/taken"
    program = f"COPY (SELECT 1) TO PROGRAM 'touch {taken}'"
    backups.tamper(tampered, f"RESET SESSION AUTHORIZATION; SET ROLE NONE; {program}")
    done = holdfast(stack, "restore", str(tampered), "--replace", "--yes")
    assert done.returncode == 1
    assert "permission denied to COPY" in done.stderr
    stack.workers()
    assert stack.compose("exec", "-T", "postgres", "sh", "-c", f"ls {taken} || echo none").strip() == "none"


def test_a_restore_without_an_api_brings_back_as_many_workers(stack: ComposeStack, file: Path) -> None:
    """An API that does not come up is a reason to restore."""
    later = stack.start_batch(numbers=[6])
    stack.finished_batch(later, 60)
    stack.compose("stop", "api", "worker")
    answer = told(stack, "restore", str(file), "--replace", "--yes")
    assert answer["replaced_workflows"] > 0
    stack.workers()
    assert stack.request("GET", f"/workflows/{later}").status_code == 404
    stack.finished_batch(stack.start_batch(numbers=[1]), 60)


def test_no_file_without_postgres(stack: ComposeStack, tmp_path: Path) -> None:
    with stack.postgres_down():
        done = holdfast(stack, "backup", str(tmp_path / "b"))
    assert done.returncode == 1
    assert "PostgreSQL does not run here" in done.stderr
    assert list(tmp_path.iterdir()) == []
    stack.workers()
