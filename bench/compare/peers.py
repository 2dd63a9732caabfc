"""The peers: each a program of ``programs/`` in the peers' environment, and the servers below it."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.compare.contender import TAKEOVER_N, Contender, Picked, check
from bench.compare.processes import Asked, NotMeasured, Running, peer_command
from bench.compare.servers import Postgres, Redis, Server, TemporalServer

WORKERS = 2
_START_SECONDS = 60.0
_FINISH_SECONDS = 60.0


class Peer(Contender):
    """Two worker processes and a driver around one server."""

    program = ""
    tuned = False
    prepares = False
    """Whether its program has a ``prepare`` that makes the schema."""

    def __init__(self) -> None:
        self.home = Path()
        self.server: Server | None = None
        self.workers: dict[int, Running] = {}
        self.driver: Asked | None = None
        self._options: dict[str, Any] = {}
        self._versions: dict[str, str] = {}
        self._begun = 0

    def new_server(self) -> Server:
        """The server it needs."""
        raise NotImplementedError

    # --- life ------------------------------------------------------------------------------

    def start(self, home: Path) -> None:
        home.mkdir(parents=True)
        self.home = home
        command = peer_command(self.program, "driver")
        self.server = self.new_server()
        reached = self.server.start(home / "server")
        self._options = {**reached, "home": str(home), "tuned": self.tuned}
        if self.prepares:
            self._prepare()
        for number in range(1, WORKERS + 1):
            self._start_worker(number)
        for number in range(1, WORKERS + 1):
            self._wait_ready(number)
        self.driver = Asked(command, home / "driver.log", self._environment())
        self._versions = self.driver.read(_START_SECONDS, f"{self.name}'s driver")["versions"]
        # Both workers have imported, connected and run once before anything is timed.
        self.at_once(20, 4 * WORKERS, _START_SECONDS)
        self.in_turn(1, 2, _START_SECONDS)

    def stop(self) -> None:
        for running in [self.driver, *self.workers.values()]:
            if running is not None:
                running.end()
        self.driver, self.workers = None, {}
        if self.server is not None:
            self.server.stop()

    def versions(self) -> dict[str, str]:
        return {**self._versions, **(self.server.describe() if self.server else {})}

    def _environment(self, **more: Any) -> dict[str, str]:
        return {"BENCH_OPTIONS": json.dumps({**self._options, **more}), "PYTHONUNBUFFERED": "1"}

    def _prepare(self) -> None:
        done = subprocess.run(
            peer_command(self.program, "prepare"),
            env={**os.environ, **self._environment()},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=_START_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise NotMeasured(f"{self.name}'s schema: {done.stderr.strip()[-300:]}")

    def _start_worker(self, number: int) -> None:
        (self.home / f"ready-{number}").unlink(missing_ok=True)
        self._begun += 1
        self.workers[number] = Running(
            peer_command(self.program, "worker"),
            self.home / f"worker-{self._begun}.log",
            self._environment(worker=number),
        )

    def _wait_ready(self, number: int) -> None:
        ready = self.home / f"ready-{number}"
        self.workers[number].wait_for(ready.exists, _START_SECONDS, f"{self.name}'s worker {number}")

    # --- cases -----------------------------------------------------------------------------

    def _ask(self, seconds: float, command: str, **arguments: Any) -> dict[str, Any]:
        if self.driver is None:
            raise NotMeasured(f"{self.name} does not run")
        return self.driver.ask(seconds, command, **arguments)

    def in_turn(self, n: int, count: int, bound_seconds: float) -> float:
        return self._timed("in_turn", n, count, bound_seconds)

    def at_once(self, n: int, count: int, bound_seconds: float) -> float:
        return self._timed("at_once", n, count, bound_seconds)

    def _timed(self, command: str, n: int, count: int, bound_seconds: float) -> float:
        answer = self._ask(bound_seconds, command, n=n, count=count)
        check(n, count, [done["value"] for done in answer["results"]])
        return float(answer["seconds"])

    def pickup(self, pauses: list[float], bound_seconds: float) -> list[Picked]:
        answer = self._ask(bound_seconds, "pickup", pauses=pauses)
        return [Picked(**sample) for sample in answer["samples"]]

    def takeover(self, delay_seconds: float, bound_seconds: float) -> float | None:
        key = uuid.uuid4().hex
        self._ask(_START_SECONDS, "begin", n=TAKEOVER_N, key=key)
        _, pid, _ = self._until(lambda: self._begins(key), 30, "the job's begin")[0]
        group = os.getpgid(pid)
        number, victim = next((n, w) for n, w in self.workers.items() if w.pid == group)
        time.sleep(delay_seconds)
        killed_at = time.time()
        victim.kill()
        deadline = time.monotonic() + bound_seconds
        while len(begins := self._begins(key)) < 2:
            if time.monotonic() > deadline:
                return None
            time.sleep(0.01)
        done = self._ask(_FINISH_SECONDS, "finish", key=key)["results"]
        check(TAKEOVER_N, 1, [each["value"] for each in done])
        self._start_worker(number)
        self._wait_ready(number)
        return begins[1][2] - killed_at

    def _begins(self, key: str) -> list[tuple[str, int, float]]:
        """When the job's body began, and in which processes."""
        file = self.home / "begins"
        lines = file.read_text("ascii").splitlines() if file.exists() else []
        found = [line.split() for line in lines if line.startswith(key)]
        return [(key, int(pid), float(at)) for key, pid, at in found]

    @staticmethod
    def _until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise NotMeasured(f"{what} did not come within {seconds:g} s")
            time.sleep(0.005)
        return value


class Dbos(Peer):
    """DBOS as its documentation shows it."""

    name, title, program = "dbos", "DBOS as documented", "dbos_app"
    note = "a queue without limits, polled once per second; `handle.get_result()` as it comes"
    slow_takeover = True

    def new_server(self) -> Server:
        return Postgres()


class DbosTuned(Dbos):
    """The same with what helps it."""

    name, title, tuned = "dbos-tuned", "DBOS tuned", True
    note = "`worker_concurrency=2`, queue and results polled every 20 ms"


class Procrastinate(Peer):
    """procrastinate with its defaults."""

    name, title, program, prepares = "procrastinate", "procrastinate", "procrastinate_app", True
    note = "as documented; the task writes its result into a table of the same database and says so by NOTIFY"
    slow_takeover = True

    def new_server(self) -> Server:
        return Postgres()


class ProcrastinateTuned(Procrastinate):
    """The same with a retry of stalled jobs."""

    name, title, tuned, slow_takeover = "procrastinate-tuned", "procrastinate tuned", True, False
    note = (
        "heartbeats every second, and the documented retry of stalled jobs every second, after 5 s of silence"
    )


class Celery(Peer):
    """celery and Redis with their defaults, but for Redis' durability."""

    name, title, program = "celery", "celery + redis", "celery_app"
    note = "two workers of one pool process; broker and results in Redis, every write in its append-only file"
    slow_takeover = True

    def new_server(self) -> Server:
        return Redis()


class CeleryTuned(Celery):
    """The same with late acknowledgement."""

    name, title, tuned, slow_takeover = "celery-tuned", "celery + redis tuned", True, False
    note = (
        "late acknowledgement, one message prefetched, visibility timeout 5 s: a job of more than 5 s "
        "would run twice"
    )


class Temporal(Peer):
    """Temporal's development server and its SDK as documented."""

    name, title, program = "temporal", "Temporal dev server", "temporal_app"
    note = (
        "synchronous activities in a thread pool, start-to-close timeout 60 s; the server keeps a SQLite file"
    )
    slow_takeover = True

    def new_server(self) -> Server:
        return TemporalServer()


class TemporalTuned(Temporal):
    """The same with heartbeats."""

    name, title, tuned, slow_takeover = "temporal-tuned", "Temporal dev server tuned", True, False
    note = (
        "one activity at a time per worker, heartbeats every second, heartbeat timeout 5 s, "
        "first retry after 0.1 s"
    )


PEERS: tuple[type[Peer], ...] = (
    Dbos,
    DbosTuned,
    Temporal,
    TemporalTuned,
    Procrastinate,
    ProcrastinateTuned,
    Celery,
    CeleryTuned,
)
