"""PostgreSQL's own programs, run on the server's machine, where their version matches the server's.

They run with the rights of ``holdfast_owner``, which owns the two schemas and nothing else: they connect as
the migrator, so that no statement of a restored file gets further rights. Natively, they use its password
file. In Compose, they run inside the database's container, which contains no password. There they connect
through the local socket, and the server lets the container's user in as the migrator.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from holdfast.installations.embedded import ROOT, die_with_parent
from holdfast.installations.native_error import NativeError

SCHEMAS = ("dbos", "ops")
"""All schemas of Holdfast in its database."""

WATCHED = """
exec 3<&0
"$0" "$@" </dev/null 3<&- & child=$!
{ read -r -u 3; kill "$child"; } >/dev/null 2>&1 & watch=$!
wait "$child"; code=$?
kill "$watch" 2>/dev/null
exit "$code"
"""
"""A bash script that ends a command when its input ends. Nothing else would in a container without client."""


class ToolError(NativeError):
    """A PostgreSQL program failed. The message is its first error line, ``code`` its exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class PostgresTools(ABC):
    """``pg_dump``, ``pg_restore`` and ``psql`` for the database of the local installation."""

    @abstractmethod
    def command(self, program: str, *arguments: str) -> list[str]:
        """Returns the command line that runs a program with the owner's role, for piped input and output."""

    @property
    def environment(self) -> dict[str, str]:
        """Returns the environment variables of the local process."""
        return {name: value for name, value in os.environ.items() if not name.startswith("PG")}

    @abstractmethod
    @contextmanager
    def executors_stopped(self) -> Iterator[None]:
        """Stops API and workers for the life of the context. At its end, migrates and starts them again.

        PostgreSQL continues to run. Waits until all are ready. Raises ``NativeError`` or ``NothingRunsError``
        if a stop or start fails.
        """

    def administrate(self, script: str) -> str:
        """Runs a script of ``psql`` as the superuser in Holdfast's database and returns what it prints.

        The script comes over standard input, so that no argument shows what it contains. Raises `ToolError`.
        """
        command, environment = self.superuser()
        done = subprocess.run(
            [*command, "--no-psqlrc", "-qAt", "--username=postgres", "--dbname=holdfast", "--file=-"],
            input=script,
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ToolError(_first_error(done.stderr) or "psql failed", done.returncode)
        return done.stdout.strip()

    @abstractmethod
    def superuser(self) -> tuple[list[str], dict[str, str]]:
        """Returns the command line of ``psql`` with the superuser's rights, and its further environment."""

    @contextmanager
    def run(
        self, program: str, *arguments: str, stdin: Any = subprocess.DEVNULL, stdout: Any = subprocess.PIPE
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Yields a running program. Waits for it at the end, or kills it after an exception.

        Without ``stdin`` it gets a pipe that stays open, so that its end signals the death of this process.
        Raises `ToolError` if the program does not exit with 0.
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
                # If this process is killed, the program must not continue to wait for a lock.
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
        """Returns a statement's result as ``psql`` prints it, one line per row. Raises `ToolError`."""
        with self.run("psql", "--no-psqlrc", "-qAt", "-v", "ON_ERROR_STOP=1", "-c", statement) as psql:
            assert psql.stdout is not None
            return psql.stdout.read().decode("utf-8").strip()


def _first_complaint(file: IO[bytes]) -> str:
    return _first_error(file.read().decode("utf-8", "replace"))


def _first_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    loud = [line for line in lines if any(word in line.lower() for word in ("error:", "fatal:"))]
    return re.sub(r"^psql:\S+ (ERROR|FATAL):\s+", "", (loud or lines or [""])[0])
