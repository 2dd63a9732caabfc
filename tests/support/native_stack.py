"""Holdfast as plain processes, in a separate directory, as a child of the test."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg2

from holdfast.installations.embedded import ROOT, Cluster, die_with_parent, installed
from holdfast.installations.state_file import read_state
from holdfast.installations.supervised import is_alive, start_ticks
from tests.support import data_folder
from tests.support.stack import CpuChild, Exit, Member, Stack, clean_environment, free_ports, wait_for

_TICKS = os.sysconf("SC_CLK_TCK")
_ENDED = re.compile(r"native\s+\| (\S+) ended (?:with exit code (\d+)|by signal (\w+));")

_STARTED = re.compile(r"native\s+\| (\S+) started again \(pid (\d+)\)")


class NativeStack(Stack):
    """``python -m holdfast.installations.native up`` and all processes below it."""

    command_module = "holdfast.installations.native"

    def __init__(self, home: Path, *, workers: int = 2, **settings: str) -> None:
        super().__init__(workers=workers, **settings)
        self.home = home
        self.supervisor: subprocess.Popen[bytes] | None = None
        self._spawned: list[subprocess.Popen[bytes]] = []
        self._stopped = False
        self._first_pids: dict[str, int] = {}

    @property
    def state(self) -> dict[str, Any]:
        """Returns ``native.json``."""
        return read_state(self.home)

    def start(self) -> None:
        """Starts the stack in the foreground without a terminal. It ends with this process."""
        self.home.mkdir(parents=True, exist_ok=True)
        port = free_ports(1 + self.worker_count)
        command = ["up", "--data", str(self.home), "--workers", str(self.worker_count), "--port", str(port)]
        with (self.home / "supervisor.log").open("ab") as log:
            self.supervisor = subprocess.Popen(
                [sys.executable, "-m", self.command_module, *command, "--quiet"],
                cwd=ROOT,
                env=clean_environment(
                    **data_folder.environment(), HOLDFAST_WORKER_PORT=str(port + 1), **self.settings
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - threads only ask over HTTP
            )
        supervisor = self.supervisor

        def ready() -> dict[str, Any] | None:
            assert supervisor.poll() is None, self.log_tail()
            state = self.state
            return state if state.get("pid") == supervisor.pid and state.get("ready") else None

        state = wait_for(ready, 90, "native stack ready")
        self.url = state["api_url"]
        self._first_pids = {"api": state["api"]["pid"]}
        self._first_pids |= {name: entry["pid"] for name, entry in _numbered(state["workers"])}

    def down(self) -> None:
        for process in self._spawned:
            if process.poll() is None:
                process.kill()
                process.wait()
        if self.supervisor is None:
            return
        self.hold(False)
        for member in [self.state.get("api"), *self.state.get("workers", [])]:
            if member and member["pid"] and is_alive(member["pid"], member["started"]):
                with suppress(ProcessLookupError):
                    os.kill(member["pid"], signal.SIGCONT)
                    # This is the second SIGTERM after the supervisor's: it ends the wait for running work.
                    os.kill(member["pid"], signal.SIGTERM)
        self.supervisor.terminate()
        try:
            self.supervisor.wait(45)
        except subprocess.TimeoutExpired:
            self.supervisor.kill()  # its children die with it
            self.supervisor.wait()
        self.supervisor = None
        with suppress(OSError):  # a process that is ending may still write; the session deletes the rest
            Cluster(self.home, self.home / "secrets").remove()

    # --- processes -------------------------------------------------------------------------

    def ready_members(self, role: str) -> list[Member]:
        state = self.state
        entries = {"api": state["api"]} if role == "api" else dict(_numbered(state["workers"]))
        found = []
        for name, entry in entries.items():
            if not entry["pid"]:
                continue
            try:
                answer = self.http.get(f"http://127.0.0.1:{entry['port']}/readyz", timeout=5)
            except httpx.TransportError:
                continue
            if answer.status_code == 200:
                found.append(Member(answer.json()["executor_id"], role, name, entry["pid"]))
        return found

    def kill(self, member: Member, signal_name: str = "KILL") -> None:
        os.kill(member.pid, signal.Signals[f"SIG{signal_name}"])

    def crash(self, member: Member) -> float:
        at = time.time()
        self.kill(member)
        return at

    def stop(self, member: Member) -> float:
        at = time.time()
        self.kill(member, "TERM")
        return at

    def pause(self, member: Member) -> None:
        self.kill(member, "STOP")

    def unpause(self, member: Member) -> None:
        self.kill(member, "CONT")

    def find_exit(self, member: Member) -> Exit | None:
        """Returns the end as its supervisor logged it, in the order of the processes with that name."""
        log = self._supervisor_log()
        again = [int(pid) for name, pid in _STARTED.findall(log) if name == member.name]
        which = [self._first_pids[member.name], *again].index(member.pid)
        ends = [found for found in _ENDED.findall(log) if found[0] == member.name]
        if len(ends) <= which:
            return None
        _, code, signal_name = ends[which]
        return Exit(int(code) if code else -signal.Signals[signal_name], time.time())

    def children(self, member: Member) -> list[CpuChild]:
        return [child for child, parent in _cpu_children() if parent == member.pid]

    def all_children(self) -> list[CpuChild]:
        return [child for child, _ in _cpu_children()]

    def outliving(self, member: Member) -> list[int]:
        return outliving(member.pid)

    def kill_child(self, member: Member, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    def hold(self, held: bool) -> None:
        """Suspends the supervisor, so that ended processes are not restarted until it is resumed."""
        if self.supervisor is not None and self._stopped != held:
            self.supervisor.send_signal(signal.SIGSTOP if held else signal.SIGCONT)
            self._stopped = held

    def spawn(self, module: str, **settings: str) -> tuple[subprocess.Popen[bytes], Path]:
        """Starts one more process with the same database. Returns it and its log. ``down`` ends it."""
        state = self.state
        role = module.rpartition(".")[2]
        log = self.home / "logs" / f"spawned-{len(self._spawned)}-{role}.jsonl"
        environment = clean_environment(
            **self.settings,
            PYTHONUNBUFFERED="1",
            HOLDFAST_DATABASE_HOST="127.0.0.1",
            HOLDFAST_DATABASE_PORT=str(state["postgres"]["port"]),
            HOLDFAST_DATABASE_NAME="holdfast",
            HOLDFAST_DATABASE_USER=f"holdfast_{role}",
            HOLDFAST_DATABASE_PASSFILE=state["passfiles"][role],
            HOLDFAST_WORKER_PORT="0",
            HOLDFAST_API_PORT="0",
        )
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=ROOT,
                env={**environment, **settings},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509 - threads only ask over HTTP
            )
        self._spawned.append(process)
        return process, log

    # --- the database ----------------------------------------------------------------------

    @contextmanager
    def postgres_frozen(self) -> Iterator[None]:
        postmaster = self.state["postgres"]["pid"]
        self._signal_postgres(postmaster, signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal_postgres(postmaster, signal.SIGCONT)

    def _signal_postgres(self, postmaster: int, signum: signal.Signals) -> None:
        # The postmaster is first, so that no new process can appear.
        os.kill(postmaster, signum)
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                if int(stat.read_text("utf-8").rpartition(")")[2].split()[1]) == postmaster:
                    os.kill(int(stat.parent.name), signum)

    @contextmanager
    def postgres_down(self) -> Iterator[None]:
        pid = self.state["postgres"]["pid"]
        started = start_ticks(pid)
        self.hold(True)
        try:
            os.kill(pid, signal.SIGINT)
            wait_for(lambda: not is_alive(pid, started), 20, "end of PostgreSQL")
            yield
        finally:
            self.hold(False)
        wait_for(self._accepts, 20, "PostgreSQL accepts connections")

    def _accepts(self) -> bool:
        try:
            self.query("SELECT 1")
        except psycopg2.OperationalError:
            return False
        return True

    def connect(self) -> Any:
        """Returns a connection as the migrator, with all rights on the tables. The caller closes it."""
        state = self.state
        return psycopg2.connect(
            host="127.0.0.1",
            port=state["postgres"]["port"],
            dbname="holdfast",
            user="holdfast_migrator",
            passfile=state["passfiles"]["migrate"],
            connect_timeout=3,
        )

    def connect_superuser(self) -> Any:
        """Returns a connection as PostgreSQL's superuser. The caller closes it."""
        password = (self.home / "secrets" / "postgres" / "superuser").read_text("ascii").strip()
        port = self.state["postgres"]["port"]
        return psycopg2.connect(
            host="127.0.0.1", port=port, dbname="holdfast", user="postgres", password=password
        )

    def query(self, statement: str) -> list[dict[str, Any]]:
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT coalesce(json_agg(t), '[]') FROM ({statement}) AS t")
            return list(cursor.fetchall()[0][0])

    def dump(self) -> str:
        state = self.state
        pg_dump = installed() / "bin" / "pg_dump"
        server = ["--host=127.0.0.1", f"--port={state['postgres']['port']}", "--username=holdfast_migrator"]
        done = subprocess.run(
            [pg_dump, *server, "holdfast"],
            env=clean_environment(PGPASSFILE=state["passfiles"]["migrate"]),
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    # --- files -----------------------------------------------------------------------------

    def logs(self) -> dict[str, list[str]]:
        return {
            path.stem: path.read_text("utf-8", "replace").splitlines()
            for path in sorted((self.home / "logs").glob("*.jsonl"))
        }

    def log_tail(self, lines: int = 25) -> str:
        return f"{super().log_tail(lines)}\n--- supervisor\n{self._supervisor_log()[-3000:]}"

    def _supervisor_log(self) -> str:
        return (self.home / "supervisor.log").read_text("utf-8")

    def read_credential(self) -> str:
        return (self.home / "secrets" / "api" / "upstream_credential").read_text("ascii").strip()

    def read_admin_token(self) -> str:
        return (self.home / "secrets" / "api" / "admin_token").read_text("ascii").strip()

    def write_credential(self, secret: str) -> None:
        (self.home / "secrets" / "api" / "upstream_credential").write_text(f"{secret}\n", "ascii")


def _numbered(entries: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, entry in enumerate(entries, 1):
        yield f"worker-{number}", entry


def outliving(parent: int) -> list[int]:
    """Returns the CPU children that an ended process left behind."""
    found = []
    for child, now_under in _cpu_children():
        with suppress(OSError):
            # A child's last argument is the pid of its creator, which stays after the child gets another
            # parent.
            words = Path(f"/proc/{child.pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
            if words[-1] == str(parent).encode() and now_under != parent:
                found.append(child.pid)
    return found


def _cpu_children() -> Iterator[tuple[CpuChild, int]]:
    """Yields each living CPU child of this machine with its parent's pid."""
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"cpu_child" not in (directory / "cmdline").read_bytes():
                continue
            fields = (directory / "stat").read_text("utf-8").rpartition(")")[2].split()
            if fields[0] not in "ZX":
                seconds = (int(fields[11]) + int(fields[12])) / _TICKS
                yield CpuChild(int(directory.name), seconds, fields[0] == "R"), int(fields[1])
