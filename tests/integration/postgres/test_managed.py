"""A managed PostgreSQL: no superuser, TLS that is checked, and a limit of connections."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from holdfast.installations.embedded import ROOT
from tests.support.database import wait_until
from tests.support.managed import PGBOUNCER, ManagedServer, certificate


@pytest.fixture(scope="module")
def managed() -> Iterator[ManagedServer]:
    server = ManagedServer()
    try:
        server.prepare()
        yield server
    finally:
        server.close()


@pytest.fixture
def pgbouncer() -> None:
    if PGBOUNCER is None:
        pytest.skip("NOT TESTED: no pgbouncer on this machine (.ci/provision installs it)")


class Running:
    """A process of the stack and its log."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.popen = popen
        self._log = log

    def lines(self, action: str = "") -> list[dict[str, Any]]:
        """Returns its log lines, all of them JSON objects, with that action."""
        found = [json.loads(line) for line in self._log.read_text("utf-8").splitlines()]
        return [line for line in found if action in ("", line["action"])]

    def wait_started(self) -> None:
        def started() -> bool:
            assert self.popen.poll() is None, self._log.read_text("utf-8")
            return bool(self.lines("executor.started"))

        wait_until(started, "started", seconds=30)

    def wait_ended(self) -> int:
        return self.popen.wait(60)


@contextmanager
def running(role: str, environment: dict[str, str]) -> Iterator[Running]:
    with tempfile.NamedTemporaryFile("ab", suffix=".jsonl") as log:
        popen = subprocess.Popen(
            [sys.executable, "-m", f"services.{role}"], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
        try:
            yield Running(popen, Path(log.name))
        finally:
            popen.kill()
            popen.wait()


def test_the_scripts_may_run_again_and_add_an_application(managed: ManagedServer) -> None:
    for _ in range(2):
        done = managed.psql(f"--file={ROOT / 'postgres' / 'roles.sql'}")
        assert done.returncode == 0, done.stderr
        verifier = (managed.secrets / "postgres" / "holdfast_app_shop.scram").read_text().strip()
        words = [f"--file={ROOT / 'postgres' / 'application.sql'}", "--set=name=shop"]
        done = managed.psql(*words, f"--set=verifier={verifier}", database="holdfast")
        assert done.returncode == 0, done.stderr
    known = managed.psql("-tAc", "SELECT name FROM ops.applications WHERE kind = 'user'", database="holdfast")
    assert known.stdout.split() == ["shop"]


def test_its_processes_start_behind_a_pooler_of_sessions_over_tls(
    managed: ManagedServer, pgbouncer: None
) -> None:
    with (
        managed.pooler("session") as pooler,
        running("worker", managed.environment("worker", pooler=pooler)) as worker,
        running("api", managed.environment("api", pooler=pooler)) as api,
    ):
        api.wait_started()
        worker.wait_started()


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_a_pooler_that_shares_sessions_is_refused_in_one_sentence(
    managed: ManagedServer, pgbouncer: None, mode: str
) -> None:
    with managed.pooler(mode) as pooler:
        if mode == "transaction":  # in the other one, DBOS's own migrations fail first
            done = managed.migrate(managed.environment("migrate", pooler=pooler))
            assert done.returncode != 0
            assert "pool_mode = session" in done.stdout + done.stderr
        for role in ("worker", "api") if mode == "transaction" else ("worker",):
            with running(role, managed.environment(role, pooler=pooler)) as process:
                assert process.wait_ended() == 1
                (refused,) = process.lines("executor.refused")
                assert "pooler" in refused["message"] and "pool_mode = session" in refused["message"]
                assert "Traceback" not in json.dumps(process.lines())


def test_another_authority_is_refused_in_one_sentence(
    managed: ManagedServer, pgbouncer: None, tmp_path: Path
) -> None:
    other = certificate("localhost", tmp_path, "other")
    with managed.pooler("session") as pooler:
        environment = managed.environment(
            "worker", pooler=pooler, HOLDFAST_DATABASE_WAIT_SECONDS="0", PGSSLROOTCERT=str(other)
        )
        with running("worker", environment) as worker:
            assert worker.wait_ended() == 1
            text = json.dumps(worker.lines())
            assert "certificate verify failed" in text and "Traceback" not in text


@pytest.fixture
def limited(managed: ManagedServer) -> Iterator[Callable[[int], None]]:
    """Sets the connection limit of the workers' role; what roles.sql sets comes back afterwards."""

    def limit(count: int) -> None:
        done = managed.psql("--command", f"ALTER ROLE holdfast_worker CONNECTION LIMIT {count}")
        assert done.returncode == 0, done.stderr

    yield limit
    limit(208)


def test_over_the_limit_of_connections_it_says_so_and_waits(
    managed: ManagedServer, limited: Callable[[int], None]
) -> None:
    limited(0)
    with running("worker", managed.environment("worker")) as worker:
        wait_until(lambda: len(worker.lines("executor.waiting")) >= 2, "it tries again", seconds=20)
        limited(208)
        worker.wait_started()
        text = json.dumps(worker.lines())
        assert "too many connections for role" in text and "Traceback" not in text


@pytest.mark.parametrize("count", [2, 5])
def test_a_start_that_runs_out_of_connections_ends_with_a_sentence(
    managed: ManagedServer, limited: Callable[[int], None], count: int
) -> None:
    limited(count)
    environment = managed.environment("worker", HOLDFAST_DATABASE_WAIT_SECONDS="0")
    with running("worker", environment) as worker:
        assert worker.wait_ended() == 1
        (ended,) = (line for line in worker.lines("executor.no_database") if line["level"] == "CRITICAL")
        assert "too many connections for role" in ended["message"] and "\n" not in ended["message"]
        ours = [line for line in worker.lines() if line["logger"] != "dbos"]
        assert "Traceback" not in json.dumps(ours)
