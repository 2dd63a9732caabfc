"""One foreign application: its environment, database and processes, and a kill in the middle of its work."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.installations.embedded import die_with_parent
from tests.support.database import Server
from tests.support.environments import Environment

PROGRAMS = Path(__file__).parent / "programs"


class Lost(Exception):  # noqa: N818 - the result of a run, not a fault of this program
    """Work did not go on, or not as it must."""


def wait(condition: Any, what: str, seconds: float = 30) -> Any:
    """Waits for the condition's first true value and returns it. Raises `Lost` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise Lost(f"after {seconds:g} s: {what}")
        time.sleep(0.005)
    return value


@dataclass
class Process:
    """One process of the application. It takes commands from its standard input."""

    process: subprocess.Popen[str]
    log: Path

    @property
    def pid(self) -> int:
        """``holdfast run`` replaces itself, so this is the application's own."""
        return self.process.pid

    def command(self, *words: str) -> None:
        """Writes one command."""
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()

    def is_ready(self) -> bool:
        """Whether it has said so. Raises `Lost` if it has ended."""
        if self.process.poll() is not None:
            raise Lost(f"ended with {self.process.returncode}: {self.log.read_text()[-1500:]}")
        return "ready" in self.log.read_text().splitlines()

    def kill(self) -> None:
        """Kills it with SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


@dataclass
class Ground:
    """One application's database and processes."""

    server: Server
    environment: Environment
    program: str
    database: str
    folder: Path
    schema: str = "dbos"
    variables: dict[str, str] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The database's URL, with its owner's name and password."""
        password = (self.server.secrets / "postgres" / "superuser").read_text("ascii").strip()
        return f"postgresql://postgres:{password}@127.0.0.1:{self.server.cluster.port}/{self.database}"

    @property
    def step_log(self) -> Path:
        """One line for each run of a step's body: workflow, step, pid."""
        return self.folder / "steps"

    def migrate(self) -> None:
        """Prepares the database with the environment's own ``holdfast migrate``."""
        schema = () if self.schema == "dbos" else ("--schema", self.schema)
        done = self.environment.run("holdfast", "migrate", "--database-url", self.url, *schema)
        if done.returncode:
            raise Lost(f"holdfast migrate: {done.stderr or done.stdout}")

    def start(self, *, required: bool = True) -> Process:
        """Starts a process under ``holdfast run`` and waits until it is ready."""
        log = self.folder / f"process-{len(self.processes)}.log"
        variables = self.environment.variables(
            **self.variables, DATABASE_URL=self.url, STEP_LOG=str(self.step_log), PYTHONUNBUFFERED="1"
        )
        holdfast = [self.environment.program("holdfast"), "run", *(["--require"] if required else []), "--"]
        command = [*holdfast, "python", str(PROGRAMS / f"{self.program}.py")]
        with log.open("w") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=variables,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509
            )
        started = Process(process, log)
        self.processes.append(started)
        wait(started.is_ready, f"{self.program} is ready", 60)
        return started

    def steps(self, workflow_id: str) -> list[tuple[str, int]]:
        """Returns what bodies of the workflow's steps ran, and where."""
        if not self.step_log.exists():
            return []
        lines = (line.split() for line in self.step_log.read_text().splitlines())
        return [(step, int(pid)) for found, step, pid in lines if found == workflow_id]

    def status(self, workflow_id: str) -> str | None:
        """Returns the status of a workflow, None without one."""
        connection = self.server.admin(self.database)
        try:
            cursor = connection.cursor()
            cursor.execute(
                f'SELECT status FROM "{self.schema}".workflow_status WHERE workflow_uuid = %s', [workflow_id]
            )
            row: Any = cursor.fetchone()
            return None if row is None else row["status"]
        finally:
            connection.close()

    def close(self) -> None:
        """Kills the processes and drops the database."""
        for process in self.processes:
            if process.process.poll() is None:
                process.kill()
            assert process.process.stdin is not None
            process.process.stdin.close()
        self.server.run(f'DROP DATABASE "{self.database}" WITH (FORCE)')


@contextmanager
def ground(
    server: Server, environment: Environment, program: str, folder: Path, **options: Any
) -> Iterator[Ground]:
    """Yields a ground with an empty database for the program, prepared by ``holdfast migrate``."""
    database = f"foreign_{folder.name.replace('-', '_').replace('.', '_')}"
    folder.mkdir(parents=True)
    server.run(f'CREATE DATABASE "{database}" TEMPLATE template0')
    made = Ground(server, environment, program, database, folder, **options)
    try:
        made.migrate()
        yield made
    finally:
        made.close()


def kill_in_a_step(ground: Ground, workflow_id: str, pair: tuple[Process, Process]) -> tuple[float, Process]:
    """Kills the process that runs the slow step, in the middle of it.

    Returns after how many seconds its peer ran that step again, and the peer. The step before must not run
    again.
    """
    pair[0].command("start", workflow_id)
    killed, peer = _runner(ground, workflow_id, "slow", pair)
    began = time.monotonic()
    killed.kill()
    wait(lambda: ("slow", peer.pid) in ground.steps(workflow_id), "the peer runs the slow step again")
    seconds = time.monotonic() - began
    if (firsts := [step for step, _ in ground.steps(workflow_id)].count("first")) != 1:
        raise Lost(f"the step before the killed one ran {firsts} times")
    return seconds, peer


def kill_in_a_wait(ground: Ground, workflow_id: str, pair: tuple[Process, Process]) -> tuple[float, Process]:
    """Kills the process whose workflow waits for a message, and sends the message through its peer.

    Returns after how many seconds the workflow went on there, and the peer.
    """
    pair[0].command("start", workflow_id)
    killed, peer = _runner(ground, workflow_id, "waits", pair)
    began = time.monotonic()
    killed.kill()
    peer.command("signal", workflow_id)
    wait(lambda: ("last", peer.pid) in ground.steps(workflow_id), "the peer received the message")
    return time.monotonic() - began, peer


def _runner(
    ground: Ground, workflow_id: str, step: str, pair: tuple[Process, Process]
) -> tuple[Process, Process]:
    """Waits until one of two processes runs this step, and returns it and the other one."""

    def running() -> list[Process]:
        pids = {pid for found, pid in ground.steps(workflow_id) if found == step}
        return [process for process in pair if process.pid in pids]

    found: Process = wait(running, f"{step} runs")[0]
    return found, pair[1] if found is pair[0] else pair[0]


def wait_success(ground: Ground, workflow_id: str) -> None:
    """Waits for the workflow's success. Raises `Lost` if it ends otherwise."""
    ended = wait(
        lambda: (s := ground.status(workflow_id)) not in ("PENDING", "ENQUEUED") and s,
        f"{workflow_id} ends",
        60,
    )
    if ended != "SUCCESS":
        raise Lost(f"{workflow_id} ended as {ended}")
