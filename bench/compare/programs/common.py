"""What the peers' programs share: the job, the driver's commands, and when a worker says it is ready.

``python -m bench.compare.programs.NAME worker|driver`` with the options as JSON in ``BENCH_OPTIONS``.
A driver reads one command a line from standard input and answers with one line of JSON; the time is
taken here, around nothing but the peer's own calls.
"""

from __future__ import annotations

import json
import os
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, TypedDict

from services.worker.fibonacci.rule import recursive

OPTIONS: dict[str, Any] = json.loads(os.environ.get("BENCH_OPTIONS", "{}"))
TUNED = bool(OPTIONS.get("tuned"))
HOME = Path(OPTIONS.get("home", "."))


class Done(TypedDict):
    """What a job leaves as its durable result; ``started`` is the body's begin in seconds since 1970."""

    n: int
    value: int
    started: float
    pid: int


def compute(n: int, key: str = "") -> Done:
    """The job's body, the same everywhere: plain recursion. A key has every begin of it noted."""
    started = time.time()
    if key:
        # One short write to a file opened for appending: whole, even if a process is killed meanwhile.
        with (HOME / "begins").open("ab", buffering=0) as file:
            file.write(f"{key} {os.getpid()} {started!r}\n".encode())
    return {"n": n, "value": recursive(n), "started": started, "pid": os.getpid()}


def worker_ready() -> None:
    """Tells the harness that this worker takes jobs."""
    (HOME / f"ready-{OPTIONS['worker']}").touch()


class Driver(ABC):
    """A client of the peer. Results are read back from where the peer keeps them."""

    @abstractmethod
    def in_turn(self, n: int, count: int) -> list[Done]:
        """So many jobs, each started after the former's result."""

    @abstractmethod
    def at_once(self, n: int, count: int) -> list[Done]:
        """So many jobs, all accepted before the first result is waited for."""

    @abstractmethod
    def begin(self, n: int, key: str) -> Any:
        """One job accepted; something to wait with."""

    @abstractmethod
    def finish(self, begun: Any) -> Done:
        """Waits for that job."""

    def versions(self) -> dict[str, str]:
        """Versions of what is measured."""
        return {}


def _pickup(driver: Driver, pauses: list[float]) -> list[dict[str, float]]:
    found = []
    for pause in pauses:
        time.sleep(pause)
        sent = time.time()
        begun = driver.begin(1, "")
        accepted = time.time()
        found.append({"sent": sent, "accepted": accepted, "started": driver.finish(begun)["started"]})
    return found


def serve(driver: Driver) -> None:
    """Answers commands until standard input ends."""
    # What a library prints must not end up between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    begun: dict[str, Any] = {}
    answers.write(json.dumps({"versions": driver.versions()}) + "\n")
    for line in sys.stdin:
        command = json.loads(line)
        kind = command["command"]
        start = time.perf_counter()
        if kind in ("in_turn", "at_once"):
            results = getattr(driver, kind)(command["n"], command["count"])
            answer: dict[str, Any] = {"seconds": time.perf_counter() - start, "results": results}
        elif kind == "pickup":
            answer = {"samples": _pickup(driver, command["pauses"])}
        elif kind == "begin":
            begun[command["key"]] = driver.begin(command["n"], command["key"])
            answer = {}
        elif kind == "finish":
            answer = {"results": [driver.finish(begun.pop(command["key"]))]}
        else:
            answer = {"error": f"unknown command {kind}"}
        answers.write(json.dumps(answer) + "\n")
