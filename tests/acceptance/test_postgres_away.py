"""PostgreSQL stops and starts under the running stack, or is not there when a process starts."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.installations.embedded import ROOT
from holdfast.installations.ports import free_port
from tests.support import outage
from tests.support.native_stack import NativeStack
from tests.support.reporting import record
from tests.support.stack import clean_environment, running_stack, wait_for


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeStack]:
    """One stack for the module."""
    started = NativeStack(tmp_path_factory.mktemp("postgres"))
    with running_stack(started):
        yield started


def test_postgres_stops_and_starts_under_load(stack: NativeStack) -> None:
    outage.check_outage(stack, [33] * 12)


def test_process_that_starts_first_waits_for_postgres(stack: NativeStack) -> None:
    with stack.postgres_down():
        process, log = stack.spawn("services.worker")
        waiting = wait_for(
            lambda: _lines(log, "executor.waiting"), 20, "a log line that says what it waits for"
        )
        assert waiting[0]["message"].startswith("waiting for PostgreSQL: ")
        assert process.poll() is None
    wait_for(lambda: _lines(log, "executor.started"), 20, "it starts once PostgreSQL is there")
    process.terminate()
    assert process.wait(10) == 0


def test_a_stop_ends_while_postgres_is_frozen(stack: NativeStack) -> None:
    """Nothing is answered and no socket closes (`docker pause`): a stop must not last until SIGKILL."""
    members = [stack.workers()[0], stack.api()]
    with stack.postgres_frozen():
        time.sleep(1.5)  # lease and sweep have asked, and wait
        signalled_at = [stack.stop(member) for member in members]
        ends = [stack.exited(member, 25) for member in members]
    took = [end.at - at for end, at in zip(ends, signalled_at, strict=True)]
    record("SIGTERM of an idle worker to its exit, PostgreSQL frozen, seconds", took[0])
    assert [end.code for end in ends] == [0, 0], took
    assert len(stack.workers()) == 2, "they come back"


@pytest.mark.parametrize("role", ["api", "worker"])
def test_wait_for_postgres_is_bounded(tmp_path: Path, role: str) -> None:
    passfile = tmp_path / "pgpass"
    passfile.touch(0o600)
    log = tmp_path / "log"
    environment = clean_environment(
        HOLDFAST_DATABASE_HOST="127.0.0.1",
        HOLDFAST_DATABASE_PORT=str(free_port()),
        HOLDFAST_DATABASE_NAME="holdfast",
        HOLDFAST_DATABASE_USER=f"holdfast_{role}",
        HOLDFAST_DATABASE_PASSFILE=str(passfile),
        HOLDFAST_DATABASE_WAIT_SECONDS="1.5",
        HOLDFAST_API_PORT="0",
        HOLDFAST_WORKER_PORT="0",
    )
    begun = time.monotonic()
    with log.open("wb") as output:
        done = subprocess.run(
            [sys.executable, "-m", f"services.{role}"],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=output,
            timeout=120,  # with no bound it waits for ever
        )
    record("absent PostgreSQL: exit after a wait of 1.5, seconds", time.monotonic() - begun)
    text = log.read_text("utf-8")
    assert done.returncode == 1, text
    assert time.monotonic() - begun >= 1.5, text
    assert _lines(log, "executor.waiting"), text
    assert "1.5 s" in _lines(log, "executor.no_database")[-1]["message"], text


def _lines(log: Path, action: str) -> list[dict[str, str]]:
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    return [line for line in lines if line["action"] == action]
