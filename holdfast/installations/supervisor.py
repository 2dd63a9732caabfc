"""The supervisor of ``make native``: starts, watches, restarts and stops the processes of one Holdfast.

Its one thread starts the children: the kernel takes the death of that thread for the death of the parent.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from holdfast.installations.embedded import ROOT, Cluster, last_line
from holdfast.installations.hold import is_held
from holdfast.installations.log_lines import readable
from holdfast.installations.native_error import NativeError
from holdfast.installations.places import path_in_url
from holdfast.installations.ports import free_port
from holdfast.installations.secrets import make_secrets
from holdfast.installations.state_file import read_state, remove_state, write_state
from holdfast.installations.supervised import Child, is_alive, say, start_ticks
from holdfast.settings import get_settings

_TICK_SECONDS = 0.05
_FAILURES_AT_START = 3


# Files for the API that the first start creates, unless the variable (empty: unset) names another file.
_MADE = {"HOLDFAST_CREDENTIAL_FILE": "upstream_credential", "HOLDFAST_ADMIN_TOKEN_FILE": "admin_token"}


class Supervisor:
    """Supervises the processes of one directory, from the secrets to the last exit."""

    def __init__(self, home: Path, workers: int, port: int, *, quiet: bool = False) -> None:
        if workers < 1:
            raise NativeError("at least one worker")
        self.home = home
        self._shown = None if quiet else (readable if sys.stdout.isatty() else str)
        self.stopping = False
        self.ready = False
        self._has_been_ready = False
        self.held = False
        self._go_on_at = 0.0
        self._server_again_at = 0.0
        # The API and the workers read the same environment. What they would refuse fails here immediately.
        self.settings = get_settings()
        self.secrets = home / "secrets"
        self.logs = home / "logs"
        token = self.settings.admin_token_file or self.secrets / "api" / "admin_token"
        judged = self.settings.model_copy(update={"publish_address": None, "admin_token_file": token})
        if judged.refusal is not None:
            raise NativeError(judged.refusal)
        # Before the ports are checked: a left-over API may still be releasing its port.
        self._end_left_overs()
        try:
            api_port = free_port(port)
        except OSError as error:
            raise NativeError(
                f"port {port} on 127.0.0.1 is taken ({error.strerror}); free it or choose another: "
                "HOLDFAST_API_PORT=8100 make native"
            ) from None
        self.cluster = Cluster(home, self.secrets)
        self.api = self._child("api", "api", api_port)
        self.workers = [
            self._child(f"worker-{n}", "worker", self._worker_port(n)) for n in range(1, workers + 1)
        ]

    @property
    def children(self) -> list[Child]:
        """All children: the API first, then the workers."""
        return [self.api, *self.workers]

    def run(self) -> int:
        """Runs everything until SIGINT or SIGTERM, stops it in order, and returns the exit code."""
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, self._on_signal)
        self.logs.mkdir(parents=True, exist_ok=True)
        self._write_state()
        try:
            self._prepare()
            if not self.stopping:
                for child in self.children:
                    child.begin_log()
                    child.start()
                self._write_state()
            while not self.stopping:
                self._tend()
                time.sleep(_TICK_SECONDS)
        finally:
            self._stop()
        return 0

    def _on_signal(self, _signum: int, _frame: FrameType | None) -> None:
        self.stopping = True

    def _prepare(self) -> None:
        self.secrets.mkdir(mode=0o700, exist_ok=True)
        make_secrets(self.secrets)
        self.cluster.prepare()
        self.cluster.start()
        self.cluster.apply_roles()
        self._say(f"PostgreSQL on 127.0.0.1:{self.cluster.port}, data in {self.cluster.data}")
        for child in self.children:
            child.environment["HOLDFAST_DATABASE_PORT"] = str(self.cluster.port)
        self._migrate()

    def _migrate(self) -> None:
        environment = self._environment("holdfast_migrator", self.secrets / "migrate" / "pgpass")
        log = self.logs / "migrate.log"
        dbos = Path(sys.executable).with_name("dbos")
        path = f"{dbos.parent}{os.pathsep}{environment.get('PATH', '')}"  # database.migrate calls `python`
        with log.open("wb") as output:
            options: dict[str, Any] = {"cwd": ROOT, "env": {**environment, "PATH": path}, "stderr": output}
            done = subprocess.run([str(dbos), "migrate"], stdout=output, check=False, **options)
        if done.returncode != 0:
            raise NativeError(f"`dbos migrate` failed: {last_line(log)} (all of it: {log})")

    def _tend(self) -> None:
        if is_held(self.home) != self.held:
            self._go_on() if self.held else self._hold()
        for child in [] if self.held else self.children:
            happened = child.tend()
            if happened:
                self._say(happened)
                self._write_state()
            child.follow(self._shown)
            if child.failures and not self._has_been_ready:
                self._end_if_start_failed(child)
        server = self.cluster.process
        if server is not None and server.poll() is not None and time.monotonic() >= self._server_again_at:
            self._say(f"PostgreSQL ended with {server.returncode}; starting it again")
            self.cluster.launch()
            self._server_again_at = time.monotonic() + 1.0
            self._write_state()
        if self.held or self.ready:
            return
        if all(child.pid and child.is_ready() for child in self.children):
            self.ready = self._has_been_ready = True
            self._write_state()
            for child in self.children:
                child.follow(self._shown)  # the address comes last
            self._say(f"{len(self.workers)} workers; Ctrl-C drains and ends it; ready at {self._api_url}")

    def _end_if_start_failed(self, child: Child) -> None:
        """Raises ``NativeError`` with the cause if the child cannot start, or did not in several attempts."""
        failed = child.failed_start()
        if failed.is_final or child.failures >= _FAILURES_AT_START:
            raise NativeError(f"{child.name} does not start: {failed.cause} (all of it: {child.log})")

    def _hold(self) -> None:
        """Stops the API and the workers. PostgreSQL continues for the process that requested the hold."""
        self._say("hold requested: the API and the workers stop, PostgreSQL continues")
        self.ready = False
        self._drain()
        self.held = True
        self._write_state()

    def _go_on(self) -> None:
        if time.monotonic() < self._go_on_at:
            return
        try:
            self._migrate()  # the database may have an older version now
        except NativeError as error:  # for example while PostgreSQL restarts
            self._say(f"{error}; trying again")
            self._go_on_at = time.monotonic() + 1.0
            return
        self.held = False
        self._say("going on")
        for child in self.children:
            child.start()
        self._write_state()

    def _stop(self) -> None:
        self.stopping = True
        self._drain()
        self.cluster.stop()
        remove_state(self.home)
        self._say("ended")

    def _drain(self) -> None:
        if any(child.pid for child in self.children):
            self._say("draining")
        for child in self.children:
            child.signal(signal.SIGTERM)
            child.signal(signal.SIGCONT)  # a suspended child receives SIGTERM only after SIGCONT
        deadline = time.monotonic() + self.settings.stop_grace_seconds
        while any(child.pid for child in self.children):
            for child in self.children:
                child.follow(self._shown)
                if time.monotonic() > deadline and child.pid:
                    self._say(
                        f"{child.name} did not end within {self.settings.stop_grace_seconds:g} s: killing it"
                    )
                    child.signal(signal.SIGKILL)
            time.sleep(_TICK_SECONDS)
        for child in self.children:
            child.follow(self._shown)

    def _end_left_overs(self) -> None:
        """Ends the processes that a killed supervisor left behind, before new ones start."""
        state = read_state(self.home)
        left = [
            (int(entry["pid"]), entry["started"])
            for entry in [*state.get("workers", []), *([state["api"]] if "api" in state else [])]
            if entry.get("pid") and is_alive(int(entry["pid"]), entry["started"])
        ]
        if not left:
            return
        self._say(f"an earlier run was killed; ending what it left behind (pids {[pid for pid, _ in left]})")
        deadline = time.monotonic() + self.settings.stop_grace_seconds
        for signum in (signal.SIGCONT, signal.SIGTERM):
            for pid, _ in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signum)
        while left := [entry for entry in left if is_alive(*entry)]:
            if time.monotonic() > deadline:
                for pid, _ in left:
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_TICK_SECONDS)

    def _child(self, name: str, role: str, port: int) -> Child:
        environment = self._environment(f"holdfast_{role}", self.secrets / role / "pgpass")
        environment[f"HOLDFAST_{role.upper()}_PORT"] = str(port)
        if role == "api":
            for variable, file in _MADE.items():
                environment[variable] = environment.get(variable) or str(self.secrets / "api" / file)
        log = self.logs / f"{name}.jsonl"
        return Child(name, f"services.{role}", port, environment, log, self._host)

    @property
    def _host(self) -> str:
        """The host at which this machine reaches the chosen bind address."""
        host = self.settings.bind_host
        return "127.0.0.1" if host in ("", "0.0.0.0", "::") else host  # noqa: S104

    def _worker_port(self, number: int) -> int:
        with suppress(OSError):
            return free_port(self.settings.worker_port + number - 1)
        return free_port()

    def _environment(self, user: str, passfile: Path) -> dict[str, str]:
        # Only Compose publishes ports. Native processes are reached at their bind address.
        kept = {name: value for name, value in os.environ.items() if name != "HOLDFAST_PUBLISH_ADDRESS"}
        return {
            **kept,
            "PYTHONUNBUFFERED": "1",
            "HOLDFAST_DATABASE_HOST": "127.0.0.1",
            "HOLDFAST_DATABASE_PORT": str(self.cluster.port),
            "HOLDFAST_DATABASE_NAME": "holdfast",
            "HOLDFAST_DATABASE_USER": user,
            "HOLDFAST_DATABASE_PASSFILE": path_in_url(passfile),
        }

    @property
    def _api_url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.api.port}"

    def _write_state(self) -> None:
        def describe(child: Child) -> dict[str, Any]:
            pid = child.pid
            return {
                "pid": pid,
                "started": start_ticks(pid) if pid else None,
                "port": child.port,
                "log": str(child.log),
            }

        server = self.cluster.process
        state = {
            "pid": os.getpid(),
            "started": start_ticks(os.getpid()),
            "ready": self.ready,
            "held": self.held,
            "stop_grace_seconds": self.settings.stop_grace_seconds,
            "api_url": self._api_url,
            "api": describe(self.api),
            "workers": [describe(child) for child in self.workers],
            "postgres": {
                "pid": server.pid if server else None,
                "port": self.cluster.port,
                "database": "holdfast",
                "data": str(self.cluster.data),
            },
            "admin_token_file": self.api.environment["HOLDFAST_ADMIN_TOKEN_FILE"],
            "passfiles": {role: str(self.secrets / role / "pgpass") for role in ("migrate", "api", "worker")},
        }
        write_state(self.home, state)

    def _say(self, sentence: str) -> None:
        say("native", sentence)
