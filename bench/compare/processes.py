"""Processes of the peers: started in sessions of their own, asked over pipes, ended by their ids."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from holdfast.installations.embedded import ROOT, die_with_parent

PEERS = ROOT / ".venv-peers"
"""The peers' environment, which ``make bench`` makes from requirements-peers.lock."""

_END_SECONDS = 10.0


class NotMeasured(Exception):  # noqa: N818 - it says what happened
    """Why something has no result; the report shows it."""


def peer_command(program: str, role: str) -> list[str]:
    """The command that runs a peer's program in its environment. Raises `NotMeasured` without one."""
    python = PEERS / "bin" / "python"
    if not python.exists():
        raise NotMeasured("the peers' environment is missing: `make bench-venv` makes it")
    return [str(python), "-m", f"bench.compare.programs.{program}", role]


class Running:
    """One process and all it starts: its own session, so that a signal reaches the whole of it."""

    def __init__(
        self,
        command: list[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        *,
        asked: bool = False,
        **options: Any,
    ) -> None:
        self.log = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                command,
                cwd=options.pop("cwd", ROOT),
                env={**os.environ, **(environment or {})},
                stdin=subprocess.PIPE if asked else subprocess.DEVNULL,
                stdout=subprocess.PIPE if asked else errors,
                stderr=errors,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509 - no thread holds a lock here
                **options,
            )

    @property
    def pid(self) -> int:
        """Also the id of its process group."""
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL to all of it."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        """SIGTERM to its first process; SIGKILL to what is left of its session after that."""
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_END_SECONDS)
        self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def tail(self, size_bytes: int = 1500) -> str:
        """The end of its log."""
        with suppress(OSError):
            return self.log.read_bytes()[-size_bytes:].decode("utf-8", "replace").strip()
        return ""

    def wait_for(self, condition: Callable[[], Any], seconds: float, what: str) -> Any:
        """The condition's first true value. Raises `NotMeasured` when the process ends or time is up."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            if self.process.poll() is not None:
                raise NotMeasured(f"{what}: ended with exit code {self.process.returncode}: {self.tail(300)}")
            if time.monotonic() > deadline:
                raise NotMeasured(f"{what}: not within {seconds:g} s: {self.tail(300)}")
            time.sleep(0.02)
        return value


class Asked(Running):
    """A process that answers each line of JSON with one."""

    def __init__(self, command: list[str], log: Path, environment: Mapping[str, str]) -> None:
        super().__init__(command, log, environment, asked=True)
        self._rest = b""

    def ask(self, seconds: float, command: str, **arguments: Any) -> dict[str, Any]:
        """One command and its answer. Raises `NotMeasured` when none comes within ``seconds``.

        A wait that is cut short, by whomever, ends the driver: its late answer would be taken for the next.
        """
        assert self.process.stdin is not None
        line = json.dumps({"command": command, **arguments}) + "\n"
        try:
            self.process.stdin.write(line.encode())
            self.process.stdin.flush()
        except (OSError, ValueError) as error:  # a closed file is a ValueError
            raise NotMeasured(f"{command}: the driver has ended: {self.tail(300)}") from error
        try:
            answer = self.read(seconds, command)
        except BaseException:
            self.kill()
            raise
        if "error" in answer:
            raise NotMeasured(f"{command}: {answer['error']}")
        return answer

    def read(self, seconds: float, what: str) -> dict[str, Any]:
        """The next answer. Raises `NotMeasured` when there is none within ``seconds``."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        deadline = time.monotonic() + seconds
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            readable, _, _ = select.select([descriptor], [], [], max(0.0, left))
            if not readable:
                raise NotMeasured(f"{what}: no answer within {seconds:g} s")
            chunk = os.read(descriptor, 1 << 20)
            if not chunk:
                raise NotMeasured(f"{what}: the driver has ended: {self.tail(300)}")
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer
