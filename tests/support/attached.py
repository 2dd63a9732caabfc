"""Runs plain DBOS applications as processes under ``holdfast run``, and asks the database what they did."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
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
            "PYTHONFAULTHANDLER": "1",  # see close()
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
        # Without what comes after the last line: it may be half of a line that is just being written.
        complete, _, _ = self.step_log.read_text("utf-8").rpartition("\n")
        return [json.loads(line) for line in complete.splitlines()]

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

    def threads(self, process: AppProcess, order: str, number: str) -> list[str]:
        """Gives an order ("relaunch", "destroy", "threads") and returns the names of the threads after it."""
        process.start(order, number)

        def noted() -> list[list[str]]:
            return [note[4] for note in self.notes() if note[1:4] == [process.pid, order, number]]

        (names,) = wait_until(noted, f"{order} {number}", seconds=30)
        return list(names)

    def wait_waiting(self, workflow_id: str) -> None:
        """Waits until the execution that owns this workflow has published that it waits."""
        wait_until(
            lambda: self.database.rows(
                "SELECT kind FROM ops.waits x JOIN dbos.workflow_status w ON w.workflow_uuid = x.workflow_id"
                " WHERE x.workflow_id = %(id)s AND w.status = 'PENDING' AND x.owner_xid = w.owner_xid",
                id=workflow_id,
            ),
            f"{workflow_id} waits",
            seconds=20,
        )

    @staticmethod
    def kill(pid: int) -> None:
        """Kills a process that a process of this runner started."""
        os.kill(pid, signal.SIGKILL)

    def executor(self, pid: int) -> dict[str, Any]:
        """Returns the row of the executor that a process registered."""
        (row,) = self.database.rows("SELECT * FROM ops.executors WHERE pid = %(pid)s", pid=pid)
        return row

    def assert_handed_over(self, pid: int, workflow_id: str = "w") -> None:
        """Asserts that this process signed off and returned the workflow to its queue."""
        assert self.executor(pid)["state"] == "drained", [process.output() for process in self.processes]
        (handover,) = self.database.rows(
            "SELECT kind FROM ops.handovers WHERE workflow_id = %(id)s", id=workflow_id
        )
        assert handover["kind"] == "handover"
        assert self.status(workflow_id)["status"] == "ENQUEUED"

    def close(self) -> None:
        """Ends what still runs. Prints its stacks and what all have written: pytest shows it in a failure."""
        for process in self.processes:
            if process.popen.poll() is None:
                process.popen.send_signal(signal.SIGCONT)
                process.popen.send_signal(signal.SIGABRT)
                with suppress(subprocess.TimeoutExpired):
                    process.popen.wait(5)
                process.kill()
            assert process.popen.stdin is not None
            process.popen.stdin.close()
            print(f"--- {process.log.name}, exit code {process.popen.returncode}")  # noqa: T201
            print(process.output()[-20_000:])  # noqa: T201


def post(port: int, path: str, *arguments: Any) -> Any:
    """Sends a JSON array to a local server and returns its answer."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        json.dumps(arguments).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        return json.loads(response.read())


def get(port: int, path: str) -> tuple[int, str]:
    """Gets a path from a local server and returns the status and the body."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@contextmanager
def app_runner(database: Database, folder: Path, **environment: str) -> Iterator[AppRunner]:
    """Yields a runner and ends its processes afterwards."""
    runner = AppRunner(database, folder, environment)
    try:
        yield runner
    finally:
        runner.close()
