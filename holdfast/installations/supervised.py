"""A supervised process, and how to distinguish it from a later process that reuses its pid."""

from __future__ import annotations

import http.client
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from holdfast import probe_paths
from holdfast.installations.embedded import ROOT, die_with_parent
from holdfast.installations.log_lines import FailedStart, failed_start
from holdfast.recovery.watchdog_child import MARK, end_programs
from holdfast.visible import visible_lines

_BACKOFF_SECONDS = (0.1, 10.0)
_SETTLED_SECONDS = 10.0
"""A child that lived this long is restarted without back-off, as under Docker's restart policy."""
_LOG_LIMIT_BYTES = 20_000_000


def say(name: str, line: str) -> None:
    """Prints a line of a process. Ignores a closed terminal."""
    with suppress(OSError):
        print(f"{name:9} | {visible_lines(line)}", flush=True)


def start_ticks(pid: int) -> int | None:
    """Returns the start of the process in clock ticks since boot, which identifies it among users of its pid.

    Returns None for a process that has ended or is a zombie.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def is_alive(pid: int, started: int | None = None) -> bool:
    """Whether the process runs and, if ``started`` is given, has that start time."""
    ticks = start_ticks(pid) if pid > 0 else None
    return ticks is not None and started in (None, ticks)


@dataclass
class Child:
    """A process that is restarted after every exit."""

    name: str
    module: str
    port: int
    environment: dict[str, str]
    log: Path
    host: str = "127.0.0.1"
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_again_at: float = 0.0
    backoff_seconds: float = _BACKOFF_SECONDS[0]
    failures: int = 0
    _mark: str = ""
    _log_begins_at: int = 0
    """Size of the log at the start of the process."""
    _shown: IO[bytes] | None = field(default=None, repr=False)

    def begin_log(self) -> None:
        """Renames the log of an earlier run."""
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".1.jsonl"))

    def start(self) -> None:
        """Starts the process. It appends to its log."""
        self._mark = f"{os.getpid()}-{secrets.token_hex(8)}"
        with self.log.open("ab") as log:
            self._log_begins_at = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module],
                cwd=ROOT,
                env={**self.environment, MARK: self._mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # only the supervisor gets the terminal's Ctrl-C
                preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - one thread
            )
        self.started_at = time.monotonic()

    def tend(self) -> str | None:
        """Restarts an ended process when its back-off is over. Returns a sentence if something happened."""
        now = time.monotonic()
        if self.process is None:
            if now < self.start_again_at:
                return None
            self.start()
            return f"{self.name} started again (pid {self.pid})"
        code = self.process.poll()
        if code is None:
            return None
        if now - self.started_at >= _SETTLED_SECONDS:
            self.backoff_seconds = _BACKOFF_SECONDS[0]
        # Its watchdog does the same, unless both were killed.
        end_programs(self._mark, leader=None, spare=frozenset())
        pause = self.backoff_seconds
        self.backoff_seconds = min(pause * 2, _BACKOFF_SECONDS[1])
        self.start_again_at = now + pause
        self.failures += code != 0
        self.process = None
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return f"{self.name} ended {how}; starting it again in {pause:g} s"

    def signal(self, signum: int) -> None:
        """Sends a signal if the process runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signum)

    @property
    def pid(self) -> int | None:
        """The pid while the process runs, else None."""
        return self.process.pid if self.process is not None and self.process.poll() is None else None

    def is_ready(self) -> bool:
        """Whether ``/readyz`` answers 200."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=2)
        try:
            connection.request("GET", probe_paths.READY)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def failed_start(self) -> FailedStart:
        """Returns why the last process ended, by its log."""
        with self.log.open("rb") as log:
            log.seek(self._log_begins_at)
            return failed_start(log.read().decode("utf-8", "replace"))

    def follow(self, show: Callable[[str], str | None] | None) -> None:
        """Prints new log lines with the process's name, and limits the size of the log file.

        ``show`` returns what is printed of a line; None prints nothing. A log that was deleted has no lines.
        """
        with suppress(FileNotFoundError):
            if show is not None:
                self._shown = self._shown or self.log.open("rb")
                for line in self._shown.readlines():
                    text = show(line.decode("utf-8", "replace").rstrip())
                    if text is not None:
                        say(self.name, text)
            if self.log.stat().st_size > _LOG_LIMIT_BYTES:
                # The child appends, so it continues at the start of the truncated file.
                shutil.copyfile(self.log, self.log.with_suffix(".1.jsonl"))
                os.truncate(self.log, 0)
                if self._shown is not None:
                    self._shown.seek(0)
