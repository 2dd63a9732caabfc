"""A whole Holdfast under test, whichever way it runs: what the acceptance and container tests share.

Two backends know how to start, hurt and end one: ``native_stack.NativeStack`` and
``compose_stack.ComposeStack``. Tests wait on conditions with deadlines, never on bare sleeps.
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

from holdfast.installations.embedded import free_port
from holdfast.statuses import TERMINAL

ROOT = Path(__file__).resolve().parents[2]

T = TypeVar("T")


def wait_for(
    condition: Callable[[], T | None], seconds: float, what: str, *, pause_seconds: float = 0.03
) -> T:
    """The first truthy value of ``condition``; an answer that does not come counts as "not yet".

    Raises ``AssertionError``, saying ``what`` was waited for, after ``seconds``.
    """
    deadline = time.monotonic() + seconds
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
            raise AssertionError(f"not within {seconds:g} s: {what} (last: {str(last)[:300]})")
        time.sleep(pause_seconds)


def measured(condition: Callable[[], T | None], seconds: float, what: str) -> float:
    """Seconds until ``condition`` is truthy; ``AssertionError`` as ``wait_for``."""
    begun = time.monotonic()
    wait_for(condition, seconds, what, pause_seconds=0.01)
    return time.monotonic() - begun


def free_ports(count: int) -> int:
    """The first of so many free TCP ports in a row.

    Below the range that outgoing connections take theirs from: a process that is started again must find
    its port free.
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
    """The shell's environment without its own Holdfast settings, and these in their place."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HOLDFAST_", "COMPOSE_", "BASE_IMAGE"))}
    return {**kept, **settings}


class NotNowError(Exception):
    """503 with Retry-After: the client is told to send the same request again."""


@dataclass(frozen=True)
class Exit:
    """How and when (epoch seconds) a process ended; the code is negative for a signal."""

    code: int
    at: float


@dataclass(frozen=True)
class Member:
    """One running process of ours: an executor, and what a signal reaches it by."""

    executor_id: str
    role: str
    name: str
    """Of its log: ``worker-1``, or the container's name."""
    pid: int
    """Inside its own pid namespace."""
    container: str = ""


@dataclass(frozen=True)
class CpuChild:
    """A child process for CPU work."""

    pid: int
    cpu_seconds: float
    computes: bool
    """On a CPU or waiting for one, not for a task."""


class Stack(ABC):
    """One Holdfast with a database of its own. ``start`` it, and ``down`` it whatever happened."""

    def __init__(self, *, workers: int = 2, **settings: str) -> None:
        self.worker_count = workers
        self.settings = settings
        self.url = ""
        self._admin_token = ""
        # A connection is not kept: it might be one to a process that a test has killed since.
        self.http = httpx.Client(
            timeout=20, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        )
        self.bodies: list[str] = []
        """Every answer's text: no secret may be in one."""

    # --- what a backend does ---------------------------------------------------------------

    @abstractmethod
    def start(self) -> None:
        """Start everything and return when it is ready."""

    @abstractmethod
    def down(self) -> None:
        """End and remove all that was started. Idempotent."""

    @abstractmethod
    def ready_members(self, role: str) -> list[Member]:
        """The members of a role that say they are ready."""

    @abstractmethod
    def kill(self, member: Member, signal_name: str = "KILL") -> None:
        """Send a signal."""

    @abstractmethod
    def crash(self, member: Member) -> float:
        """SIGKILL as a crash gives it: the restart policy brings a new one. Returns the time (epoch)."""

    @abstractmethod
    def stop(self, member: Member) -> float:
        """SIGTERM without a wait; the restart policy brings a new one. Returns the time (epoch)."""

    @abstractmethod
    def pause(self, member: Member) -> None:
        """Freeze it, as SIGSTOP does."""

    @abstractmethod
    def unpause(self, member: Member) -> None:
        """Let it go on."""

    @abstractmethod
    def find_exit(self, member: Member) -> Exit | None:
        """Its end; None while it runs."""

    @abstractmethod
    def children(self, member: Member) -> list[CpuChild]:
        """Its CPU children."""

    @abstractmethod
    def all_children(self) -> list[CpuChild]:
        """The CPU children of every process there is, also of ended ones."""

    @abstractmethod
    def outliving(self, member: Member) -> list[int]:
        """Pids of its CPU children that live though it has ended. Ask only after its end."""

    @abstractmethod
    def kill_child(self, member: Member, pid: int) -> None:
        """SIGKILL one CPU child."""

    @abstractmethod
    def postgres_down(self) -> Any:
        """A context manager: PostgreSQL is stopped inside it, and starts again at its end."""

    @abstractmethod
    def postgres_frozen(self) -> Any:
        """A context manager: PostgreSQL keeps its connections inside it, and does nothing."""

    @abstractmethod
    def query(self, statement: str) -> list[dict[str, Any]]:
        """Rows of a SELECT, as JSON has them."""

    @abstractmethod
    def dump(self) -> str:
        """All of the database as text."""

    @abstractmethod
    def logs(self) -> dict[str, list[str]]:
        """Every line logged so far, by process."""

    @abstractmethod
    def read_credential(self) -> str:
        """The secret that the credential cache serves."""

    @abstractmethod
    def read_admin_token(self) -> str:
        """The token that orders need."""

    @abstractmethod
    def write_credential(self, secret: str) -> None:
        """Rotate it."""

    # --- what all can do -------------------------------------------------------------------

    def exited(self, member: Member, seconds: float) -> Exit:
        """Its end, once it has come."""
        return wait_for(lambda: self.find_exit(member), seconds, f"end of {member.name}")

    def log_tail(self, lines: int = 25) -> str:
        """The end of every log, for a failed test."""
        return "\n".join(
            f"--- {name}\n" + "\n".join(line[:600] for line in text[-lines:])
            for name, text in sorted(self.logs().items())
        )

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request to the API."""
        if method != "GET" or self.settings.get("HOLDFAST_REQUIRE_TOKEN") == "true":
            options["headers"] = {**self.admin(), **(options.get("headers") or {})}
        response = self.http.request(method, self.url + path, **options)
        self.bodies.append(response.text)
        return response

    def admin(self) -> dict[str, str]:
        """The header that orders need."""
        if not self._admin_token:
            self._admin_token = self.read_admin_token()
        return {"Authorization": f"Bearer {self._admin_token}"}

    def get(self, path: str) -> Any:
        """The JSON of a GET that must answer 200."""
        response = self.request("GET", path)
        if response.status_code == 503:
            raise NotNowError(response.text)
        assert response.status_code == 200, f"GET {path}: {response.status_code} {response.text[:500]}"
        return response.json()

    def post(self, path: str, body: dict[str, Any] | None = None, **options: Any) -> Any:
        """The JSON of a POST that must be accepted."""
        response = self.request("POST", path, json=body or {}, **options)
        assert response.status_code in (200, 202), (
            f"POST {path}: {response.status_code} {response.text[:500]}"
        )
        return response.json()

    def start_batch(self, **body: Any) -> str:
        """The id of a new Fibonacci batch."""
        return str(self.post("/fibonacci/batches", body)["workflow_id"])

    def batch(self, batch_id: str) -> Any:
        """A batch as it stands."""
        return self.get(f"/fibonacci/batches/{batch_id}")

    def finished_batch(self, batch_id: str, seconds: float) -> Any:
        """A batch that must succeed within ``seconds``."""
        done = wait_for(
            lambda: (b := self.batch(batch_id))["status"] in TERMINAL and b,
            seconds,
            f"end of {batch_id}",
            pause_seconds=0.1,
        )
        assert done["status"] == "SUCCESS", f"{batch_id}: {done['status']} {done['error']}"
        return done

    def running(self, batch_id: str) -> list[Any]:
        """The numbers of a batch that an executor has claimed and not finished."""
        return [n for n in self.batch(batch_id)["results"] if n["status"] == "PENDING"]

    def finished(self, workflow_id: str, seconds: float) -> Any:
        """A workflow that must succeed within ``seconds``, with its output."""
        done = wait_for(
            lambda: (w := self.get(f"/workflows/{workflow_id}"))["status"] in TERMINAL and w,
            seconds,
            f"end of {workflow_id}",
            pause_seconds=0.1,
        )
        assert done["status"] == "SUCCESS", f"{workflow_id}: {done['status']} {done['error']}"
        return done

    def executors(self) -> dict[str, Any]:
        """The registry, by executor id."""
        return {row["executor_id"]: row for row in self.get("/executors")["executors"]}

    def workers(self) -> list[Member]:
        """All the workers, once all are ready."""
        return self.members("worker", self.worker_count)

    def api(self) -> Member:
        """The API, once it is ready."""
        return self.members("api", 1)[0]

    def members(self, role: str, count: int, seconds: float = 60) -> list[Member]:
        """``count`` ready members of a role, all of them live in the registry."""

        def look() -> list[Member] | None:
            found = self.ready_members(role)
            live = {
                e for e, row in self.executors().items() if row["state"] == "live" and row["role"] == role
            }
            return found if len(found) == count and {m.executor_id for m in found} == live else None

        return wait_for(look, seconds, f"{count} ready {role}")

    def busy_children(self, member: Member) -> list[int]:
        """Those of its CPU children that are past their start and compute."""
        return [c.pid for c in self.children(member) if c.computes and c.cpu_seconds > 0.15]

    def handovers(self, workflow_ids: list[str]) -> list[dict[str, Any]]:
        """When these workflows changed hands, with the seconds from loss to claim."""
        ids = ", ".join(f"'{workflow_id}'" for workflow_id in workflow_ids)
        return self.query(
            "SELECT workflow_id, kind, reason, from_executor, to_executor,"
            " extract(epoch FROM claimed_at - lost_at)::float8 AS seconds"
            f" FROM ops.handovers WHERE workflow_id IN ({ids}) ORDER BY handover_id"
        )

    def pending_under(self, executor_id: str) -> list[str]:
        """Ids of the workflows that are PENDING under an executor."""
        rows = self.query(
            "SELECT workflow_uuid FROM dbos.workflow_status"
            f" WHERE status = 'PENDING' AND executor_id = '{executor_id}'"
        )
        return [row["workflow_uuid"] for row in rows]

    def log_objects(self, *names: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every log line parsed, with its process's name. Fails on one that is not a JSON object.

        ``names``: only of processes whose names begin so.
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
    """A stack for a fixture: ended also when its start or a test fails; a failed start shows the logs."""
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
