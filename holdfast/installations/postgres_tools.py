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
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from holdfast.installations.embedded import ROOT, NativeError, die_with_parent

SCHEMAS = ("dbos", "ops")
"""All that is Holdfast's in its database."""

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
