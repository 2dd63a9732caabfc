"""Runs plain DBOS applications as processes under ``holdfast run``, and asks the database what they did."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.database import Database, wait_until

ROOT = Path(__file__).parents[2]
APPS = ROOT / "tests" / "attached_apps"
UNDER_HOLDFAST = (sys.executable, "-m", "holdfast.command", "run", "--")


@dataclass
class AppProcess:
    """One process of an application."""

    popen: subprocess.Popen[str]
    log: Path

    @property
    def pid(self) -> int:
        """The process id. ``holdfast run`` replaces itself, so it is the application's own."""
        return self.popen.pid

    def output(self) -> str:
        """Returns what the process has written so far."""
        return self.log.read_text("utf-8")

    def wait_ready(self, text: str = "ready", *, seconds: float = 60) -> AppProcess:
        """Waits until the application says that it is ready."""

        def ready() -> bool:
            assert self.popen.poll() is None, f"ended with {self.popen.returncode}:\n{self.output()}"
            return any(line.startswith(text) for line in self.output().splitlines())

        wait_until(ready, f"the application is ready:\n{self.output()}", seconds=seconds)
        return self

    def start(self, name: str, workflow_id: str, *arguments: Any) -> None:
        """Makes the application start a workflow; ``queue:name`` enqueues it."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(json.dumps([name, workflow_id, arguments]) + "\n")
        self.popen.stdin.flush()

    def kill(self) -> None:
        """Kills the process."""
        self.popen.kill()
        self.popen.wait(10)

    def stop(self, number: int = signal.SIGTERM, *, seconds: float = 40) -> int:
        """Sends a signal, waits for the end, and returns the exit code."""
        self.popen.send_signal(number)
        return self.popen.wait(seconds)


@dataclass
class AppRunner:
    """Starts processes of applications against one database."""

    database: Database
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    under: Sequence[str] = UNDER_HOLDFAST
    processes: list[AppProcess] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The database's URL with the owner's rights."""
        server = self.database.server
        password = (server.secrets / "postgres" / "superuser").read_text("ascii").strip()
        return f"postgresql://postgres:{password}@127.0.0.1:{server.cluster.port}/{self.database.name}"

    @property
    def step_log(self) -> Path:
        """The file to which the steps' bodies write."""
        return self.folder / "steps.jsonl"

    def run(self, *command: str, **environment: str) -> AppProcess:
        """Starts a command without waiting for it."""
        log = self.folder / f"process{len(self.processes)}.log"
        given = {
            **{key: value for key, value in os.environ.items() if not key.startswith("HOLDFAST_")},
            "PYTHONPATH": f"{APPS}{os.pathsep}{ROOT}",
            "PYTHONUNBUFFERED": "1",
            "PLAIN_DATABASE_URL": self.url,
            "PLAIN_LOG": str(self.step_log),
            **self.environment,
            **environment,
        }
        with log.open("w") as output:
            popen = subprocess.Popen(
                [*self.under, *command],
                cwd=self.folder,
                env=given,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        process = AppProcess(popen, log)
        self.processes.append(process)
        return process

    def app(self, name: str = "plain", **environment: str) -> AppProcess:
        """Starts an application of tests/attached_apps and waits until it is ready."""
        return self.run(sys.executable, str(APPS / f"{name}.py"), **environment).wait_ready()

    def notes(self) -> list[list[Any]]:
        """Returns what steps' bodies have noted: time, pid, and what they said."""
        if not self.step_log.exists():
            return []
        return [json.loads(line) for line in self.step_log.read_text("utf-8").splitlines()]

    def status(self, workflow_id: str) -> dict[str, Any]:
        """Returns the row of a workflow; empty without one."""
        rows = self.database.rows(
            "SELECT * FROM dbos.workflow_status WHERE workflow_uuid = %(id)s", id=workflow_id
        )
        return rows[0] if rows else {}

    def wait_status(
        self, workflow_id: str, status: str = "SUCCESS", *, seconds: float = 30
    ) -> dict[str, Any]:
        """Waits until a workflow has this status and returns its row."""
        wait_until(
            lambda: self.status(workflow_id).get("status") == status,
            f"{workflow_id} becomes {status}",
            seconds=seconds,
        )
        return self.status(workflow_id)

    def close(self) -> None:
        """Kills what still runs."""
        for process in self.processes:
            if process.popen.poll() is None:
                process.kill()
            assert process.popen.stdin is not None
            process.popen.stdin.close()


@contextmanager
def app_runner(database: Database, folder: Path, **environment: str) -> Iterator[AppRunner]:
    """Yields a runner and ends its processes afterwards."""
    runner = AppRunner(database, folder, environment)
    try:
        yield runner
    finally:
        runner.close()
