"""A whole Holdfast under test, native or in containers: the base of acceptance and container tests.

Two backends start, disturb and end one: ``native_stack.NativeStack`` and ``compose_stack.ComposeStack``.
Tests wait on conditions with deadlines, never on bare sleeps.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from holdfast.installations.ports import free_port
from holdfast.statuses import TERMINAL
from tests.support.database import PATIENCE

ROOT = Path(__file__).resolve().parents[2]

T = TypeVar("T")


def wait_for(
    condition: Callable[[], T | None], seconds: float, what: str, *, pause_seconds: float = 0.03
) -> T:
    """Waits for the first truthy value of ``condition`` and returns it. A missing answer counts as "not yet".

    Raises ``AssertionError`` with ``what`` when it does not come. ``seconds`` is enough on an idle machine.
    """
    deadline = time.monotonic() + PATIENCE * seconds
    last: object = None
    while True:
        try:
            value = condition()
        except (httpx.TransportError, NotNowError) as error:
            value, last = None, repr(error)
        else:
            last = value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {PATIENCE * seconds:g} s: {what} (last: {str(last)[:300]})")
        time.sleep(pause_seconds)


def measured(condition: Callable[[], T | None], seconds: float, what: str) -> float:
    """Returns the seconds until ``condition`` is truthy. Raises ``AssertionError`` like ``wait_for``."""
    begun = time.monotonic()
    wait_for(condition, seconds, what, pause_seconds=0.01)
    return time.monotonic() - begun


def free_ports(count: int) -> int:
    """Returns the first of ``count`` consecutive free TCP ports.

    The ports are below the range of outgoing connections, so that a restarted process finds its port free.
    """
    while True:
        first = random.SystemRandom().randrange(20_000, 30_000)
        try:
            for port in range(first, first + count):
                free_port(port)
        except OSError:
            continue
        return first


def clean_environment(**settings: str) -> dict[str, str]:
    """Returns the shell's environment with these Holdfast settings instead of the shell's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HOLDFAST_", "COMPOSE_", "BASE_IMAGE"))}
    return {**kept, **settings}


class NotNowError(Exception):
    """The answer was 503 with Retry-After: the client must repeat the request."""


@dataclass(frozen=True)
class Exit:
    """The exit code of a process and its time (epoch seconds). The code is negative for a signal."""

    code: int
    at: float


@dataclass(frozen=True)
class Member:
    """One running process of ours: an executor, and the address for signals."""

    executor_id: str
    role: str
    name: str
    """The name of its log, ``worker-1``, or of its container."""
    pid: int
    """The pid inside its own pid namespace."""
    container: str = ""


@dataclass(frozen=True)
class CpuChild:
    """A child process for CPU work."""

    pid: int
    cpu_seconds: float
    computes: bool
    """Whether it runs on a CPU or waits for one, rather than for a task."""


class Stack(ABC):
    """One Holdfast with its own database. Call ``start``, and ``down`` in every case."""

    def __init__(self, *, workers: int = 2, **settings: str) -> None:
        self.worker_count = workers
        self.settings = settings
        self.url = ""
        self._admin_token = ""
        # Connections are not kept: a test may have killed the process at the other end.
        self.http = httpx.Client(
            timeout=20, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        )
        self.bodies: list[str] = []
        """The texts of all answers: none may contain a secret."""

    # --- what a backend does ---------------------------------------------------------------

    @abstractmethod
    def start(self) -> None:
        """Starts everything and returns when it is ready."""

    @abstractmethod
    def down(self) -> None:
        """Stops and removes everything that was started. Idempotent."""

    @abstractmethod
    def ready_members(self, role: str) -> list[Member]:
        """Returns the members of a role that report to be ready."""

    @abstractmethod
    def kill(self, member: Member, signal_name: str = "KILL") -> None:
        """Sends a signal to a member."""

    @abstractmethod
    def crash(self, member: Member) -> float:
        """Sends SIGKILL like a crash. The restart policy starts a new process. Returns the epoch time."""

    @abstractmethod
    def stop(self, member: Member) -> float:
        """Sends SIGTERM without waiting. The restart policy starts a new process. Returns the epoch time."""

    @abstractmethod
    def pause(self, member: Member) -> None:
        """Suspends a member, as SIGSTOP does."""

    @abstractmethod
    def unpause(self, member: Member) -> None:
        """Resumes a suspended member."""

    @abstractmethod
    def find_exit(self, member: Member) -> Exit | None:
        """Returns the end of a member, None while it runs."""

    @abstractmethod
    def children(self, member: Member) -> list[CpuChild]:
        """Returns the CPU children of a member."""

    @abstractmethod
    def all_children(self) -> list[CpuChild]:
        """Returns the CPU children of all processes, including ended ones."""

    @abstractmethod
    def outliving(self, member: Member) -> list[int]:
        """Returns the pids of CPU children that outlived the member. Call only after its end."""

    @abstractmethod
    def kill_child(self, member: Member, pid: int) -> None:
        """Sends SIGKILL to one CPU child."""

    @abstractmethod
    def postgres_down(self) -> Any:
        """Returns a context manager that stops PostgreSQL and starts it again at the end."""

    @abstractmethod
    def postgres_frozen(self) -> Any:
        """Returns a context manager that suspends PostgreSQL. Its connections stay open."""

    @abstractmethod
    def query(self, statement: str) -> list[dict[str, Any]]:
        """Returns the rows of a SELECT, as JSON represents them."""

    @abstractmethod
    def dump(self) -> str:
        """Returns the whole database as text."""

    @abstractmethod
    def logs(self) -> dict[str, list[str]]:
        """Returns all lines logged so far, by process."""

    @abstractmethod
    def read_credential(self) -> str:
        """Returns the secret that the credential cache serves."""

    @abstractmethod
    def read_admin_token(self) -> str:
        """Returns the token that control operations need."""

    @abstractmethod
    def write_credential(self, secret: str) -> None:
        """Rotates the secret."""

    # --- what all can do -------------------------------------------------------------------

    def exited(self, member: Member, seconds: float) -> Exit:
        """Waits for the end of a member and returns it."""
        return wait_for(lambda: self.find_exit(member), seconds, f"end of {member.name}")

    def log_tail(self, lines: int = 25) -> str:
        """Returns the end of every log, for a failed test."""
        return "\n".join(
            f"--- {name}\n" + "\n".join(line[:600] for line in text[-lines:])
            for name, text in sorted(self.logs().items())
        )

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Sends one request to the API."""
        if method != "GET" or self.settings.get("HOLDFAST_REQUIRE_TOKEN") == "true":
            options["headers"] = {**self.admin(), **(options.get("headers") or {})}
        response = self.http.request(method, self.url + path, **options)
        self.bodies.append(response.text)
        return response

    def admin(self) -> dict[str, str]:
        """The header that control operations need."""
        if not self._admin_token:
            self._admin_token = self.read_admin_token()
        return {"Authorization": f"Bearer {self._admin_token}"}

    def get(self, path: str) -> Any:
        """Sends a GET that must answer 200 and returns the JSON."""
        response = self.request("GET", path)
        if response.status_code == 503:
            raise NotNowError(response.text)
        assert response.status_code == 200, f"GET {path}: {response.status_code} {response.text[:500]}"
        return response.json()

    def post(self, path: str, body: dict[str, Any] | None = None, **options: Any) -> Any:
        """Sends a POST that must be accepted and returns the JSON."""
        response = self.request("POST", path, json=body or {}, **options)
        assert response.status_code in (200, 202), (
            f"POST {path}: {response.status_code} {response.text[:500]}"
        )
        return response.json()

    def start_batch(self, **body: Any) -> str:
        """Starts a Fibonacci batch and returns its id."""
        return str(self.post("/fibonacci/batches", body)["workflow_id"])

    def batch(self, batch_id: str) -> Any:
        """Returns the present state of a batch."""
        return self.get(f"/fibonacci/batches/{batch_id}")

    def finished_batch(self, batch_id: str, seconds: float) -> Any:
        """Waits for a batch that must succeed within ``seconds`` and returns it."""
        done = wait_for(
            lambda: (b := self.batch(batch_id))["status"] in TERMINAL and b,
            seconds,
            f"end of {batch_id}",
            pause_seconds=0.1,
        )
        assert done["status"] == "SUCCESS", f"{batch_id}: {done['status']} {done['error']}"
        return done

    def running(self, batch_id: str) -> list[Any]:
        """Returns the numbers of a batch that an executor has claimed and not finished."""
        return [n for n in self.batch(batch_id)["results"] if n["status"] == "PENDING"]

    def finished(self, workflow_id: str, seconds: float) -> Any:
        """Waits for a workflow that must succeed within ``seconds`` and returns it with its output."""
        done = wait_for(
            lambda: (w := self.get(f"/workflows/{workflow_id}"))["status"] in TERMINAL and w,
            seconds,
            f"end of {workflow_id}",
            pause_seconds=0.1,
        )
        assert done["status"] == "SUCCESS", f"{workflow_id}: {done['status']} {done['error']}"
        return done

    def executors(self) -> dict[str, Any]:
        """Returns the registry, by executor id."""
        return {row["executor_id"]: row for row in self.get("/executors")["executors"]}

    def workers(self) -> list[Member]:
        """Waits until all workers are ready and returns them."""
        return self.members("worker", self.worker_count)

    def api(self) -> Member:
        """Waits until the API is ready and returns it."""
        return self.members("api", 1)[0]

    def members(self, role: str, count: int, seconds: float = 60) -> list[Member]:
        """Waits for ``count`` ready members of a role, all of them live in the registry."""

        def look() -> list[Member] | None:
            found = self.ready_members(role)
            live = {
                e for e, row in self.executors().items() if row["state"] == "live" and row["role"] == role
            }
            return found if len(found) == count and {m.executor_id for m in found} == live else None

        return wait_for(look, seconds, f"{count} ready {role}")

    def busy_children(self, member: Member) -> list[int]:
        """Returns the pids of CPU children that have started and compute."""
        return [c.pid for c in self.children(member) if c.computes and c.cpu_seconds > 0.15]

    def handovers(self, workflow_ids: list[str]) -> list[dict[str, Any]]:
        """Returns the moves of these workflows, with the seconds from loss to claim."""
        ids = ", ".join(f"'{workflow_id}'" for workflow_id in workflow_ids)
        return self.query(
            "SELECT workflow_id, kind, reason, from_executor, to_executor,"
            " extract(epoch FROM claimed_at - lost_at)::float8 AS seconds"
            f" FROM ops.handovers WHERE workflow_id IN ({ids}) ORDER BY handover_id"
        )

    def pending_under(self, executor_id: str) -> list[str]:
        """Returns the ids of the workflows that are PENDING under an executor."""
        rows = self.query(
            "SELECT workflow_uuid FROM dbos.workflow_status"
            f" WHERE status = 'PENDING' AND executor_id = '{executor_id}'"
        )
        return [row["workflow_uuid"] for row in rows]

    def log_objects(self, *names: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields each parsed log line with its process's name. Fails on a line that is not a JSON object.

        ``names``: only processes whose names begin with one of these.
        """
        for name, lines in self.logs().items():
            if not name.startswith(names or ("",)):
                continue
            for line in lines:
                try:
                    parsed = json.loads(line)
                except ValueError:
                    parsed = None
                assert isinstance(parsed, dict), f"{name} logged a line that is no JSON object: {line[:300]}"
                yield name, parsed


@contextmanager
def running_stack(stack: Stack) -> Iterator[Stack]:
    """Runs a stack for a fixture. It ends even if its start or a test fails. A failed start shows logs."""
    try:
        try:
            stack.start()
        except BaseException:
            sys.stdout.write(stack.log_tail())
            raise
        yield stack
    finally:
        stack.down()
        stack.http.close()
