"""Holdfast as a user gets it: the native stack with two workers, asked over its HTTP API."""

from __future__ import annotations

import os
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from bench.compare.contender import TAKEOVER_N, Contender, Picked, check
from bench.compare.processes import NotMeasured
from bench.compare.servers import postgres_settings
from holdfast import __version__
from holdfast.statuses import TERMINAL
from tests.support.native_stack import NativeStack
from tests.support.stack import wait_for

_TRIES = 5


class Holdfast(Contender):
    """Every setting at its default."""

    name, title = "holdfast", "Holdfast"
    note = "every setting at its default; over its HTTP API; `sequential: true` for jobs in turn"
    takeovers = 5

    def __init__(self, *, workers: int = 2, **settings: str) -> None:
        self.worker_count = workers
        self.settings = settings
        self.stack: NativeStack | None = None
        self._http: httpx.Client | None = None
        self._versions: dict[str, str] = {}

    # --- life ------------------------------------------------------------------------------

    def new_stack(self, home: Path) -> NativeStack:
        """The stack to start."""
        return NativeStack(home, workers=self.worker_count, **self.settings)

    def start(self, home: Path) -> None:
        self.stack = self.new_stack(home)
        try:
            self.stack.start()
            self.stack.members("worker", self.worker_count, 60)
        except AssertionError as error:
            raise NotMeasured(f"the stack did not start: {str(error)[-600:]}") from error
        with closing(self.stack.connect()) as connection:
            settings = postgres_settings(connection)
        self._versions = {"Holdfast": __version__} | {f"PostgreSQL {name}": v for name, v in settings.items()}
        self._http = httpx.Client(
            base_url=self.stack.url, headers=self.stack.admin(), timeout=30, trust_env=False
        )
        self.at_once(20, 8, 60)
        self.in_turn(1, 2, 60)

    def stop(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None
        if self.stack is not None:
            self.stack.down()
            self.stack.http.close()
            self.stack = None

    def versions(self) -> dict[str, str]:
        return self._versions

    @property
    def running_stack(self) -> NativeStack:
        """The stack. Raises `NotMeasured` when it does not run."""
        if self.stack is None:
            raise NotMeasured("the stack does not run")
        return self.stack

    # --- the API ---------------------------------------------------------------------------

    def call(self, method: str, path: str, **options: Any) -> Any:
        """The JSON of an answer that succeeded; a 503 is sent again, as it asks for. `NotMeasured`."""
        if self._http is None:
            raise NotMeasured("the stack does not run")
        for _ in range(_TRIES):
            try:
                answer = self._http.request(method, path, **options)
            except httpx.TransportError as error:
                raise NotMeasured(f"{method} {path}: {error!r}") from error
            if answer.status_code != 503:
                break
            time.sleep(float(answer.headers.get("Retry-After", 1)))
        if answer.status_code not in (200, 202):
            raise NotMeasured(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        return answer.json()

    def submit(self, numbers: list[int], *, sequential: bool = False) -> str:
        """The id of a new batch."""
        body = {"numbers": numbers, "sequential": sequential}
        return str(self.call("POST", "/fibonacci/batches", json=body)["workflow_id"])

    def until_done(self, batch_id: str, bound_seconds: float) -> None:
        """Waits for a batch's end. Raises `NotMeasured` when it failed or takes too long."""
        begun = time.monotonic()
        wait = {"wait": 20}
        while (status := self.call("GET", f"/workflows/{batch_id}", params=wait)["status"]) not in TERMINAL:
            if time.monotonic() - begun > bound_seconds:
                raise NotMeasured(f"{batch_id}: {status} after {bound_seconds:g} s")
        if status != "SUCCESS":
            raise NotMeasured(f"{batch_id}: {status}")

    def results(self, batch_id: str) -> list[dict[str, Any]]:
        """The batch's numbers, as they are stored."""
        found: list[dict[str, Any]] = self.call("GET", f"/fibonacci/batches/{batch_id}")["results"]
        return found

    def _timed(self, n: int, count: int, bound_seconds: float, *, sequential: bool) -> float:
        begun = time.perf_counter()
        batch_id = self.submit([n] * count, sequential=sequential)
        self.until_done(batch_id, bound_seconds)
        # Reading the results is a part of it for the peers too.
        found = self.results(batch_id)
        seconds = time.perf_counter() - begun
        check(n, count, [int(number["result"]) for number in found])
        return seconds

    # --- cases -----------------------------------------------------------------------------

    def in_turn(self, n: int, count: int, bound_seconds: float) -> float:
        return self._timed(n, count, bound_seconds, sequential=True)

    def at_once(self, n: int, count: int, bound_seconds: float) -> float:
        return self._timed(n, count, bound_seconds, sequential=False)

    def pickup(self, pauses: list[float], bound_seconds: float) -> list[Picked]:
        deadline = time.monotonic() + bound_seconds
        found = []
        for pause in pauses:
            time.sleep(pause)
            sent = time.time()
            batch_id = self.submit([1])
            accepted = time.time()
            self.until_done(batch_id, max(0.0, deadline - time.monotonic()))
            found.append(Picked(sent, accepted, _begun(self.results(batch_id)[0])))
        return found

    def takeover(self, delay_seconds: float, bound_seconds: float) -> float | None:
        stack = self.running_stack
        members = {member.executor_id: member for member in stack.workers()}
        batch_id = self.submit([TAKEOVER_N])
        running = wait_for(lambda: stack.running(batch_id), 30, f"{batch_id} runs", pause_seconds=0.01)
        victim = members[running[0]["executor_id"]]
        time.sleep(delay_seconds)
        # Nothing is started again meanwhile, as with the peers: the other worker has to do it.
        stack.hold(True)
        try:
            killed_at = stack.crash(victim)
            self.until_done(batch_id, bound_seconds + 30)
        except NotMeasured:
            if (self.call("GET", f"/workflows/{batch_id}"))["status"] in TERMINAL:
                raise
            return None
        finally:
            stack.hold(False)
        (number,) = self.results(batch_id)
        check(TAKEOVER_N, 1, [int(number["result"])])
        if number["executor_id"] == victim.executor_id:
            raise NotMeasured("the job had ended before the kill")
        stack.workers()
        again = _begun(number) - killed_at
        return again if again <= bound_seconds else None


def _begun(number: dict[str, Any]) -> float:
    """When the recorded run of a number's body began."""
    return datetime.fromisoformat(number["started_at"]).timestamp()


def resident_megabytes(pid: int) -> float:
    """Resident memory of one process, without its children. Raises ``OSError`` when it is gone."""
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ProcessLookupError(os.strerror(3))
