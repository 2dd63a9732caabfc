"""The parent's handle of one child process of the CPU pool: it starts, kills, and reports its death."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.compute import cpu_child

_log = logging.getLogger("holdfast.compute.cpu_pool")
_CHILD_FILE = Path(cpu_child.__file__)
_STDERR_TAIL_BYTES = 2000


@dataclass(eq=False)
class ChildProcess:
    """A child process. It computes ``job``. ``doomed`` means that it was killed but has not ended yet."""

    process: subprocess.Popen[bytes]
    channel: socket.socket
    stderr: int
    ready: bool = False
    doomed: bool = False
    job: Any = None

    def kill(self) -> None:
        """Kills the process without waiting for its end."""
        self.doomed = True
        self.process.kill()


def start_child() -> ChildProcess:
    """Starts a child process. Raises ``OSError``."""
    ours, theirs = socket.socketpair()
    # Not our stderr: the output of a dying interpreter is not a line of JSON.
    stderr = os.memfd_create("cpu-child-stderr")
    # -S and -P: only the standard library is loaded at start. Our sys.path follows in the first frame.
    command = [sys.executable, "-S", "-P", str(_CHILD_FILE), str(theirs.fileno()), str(os.getpid())]
    try:
        with theirs:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=(theirs.fileno(),),
            )
    except BaseException:
        ours.close()
        os.close(stderr)
        raise
    return ChildProcess(process, ours, stderr)


def cause(code: int) -> str:
    """Describes the exit status of a process."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def report_death(child: ChildProcess, code: int) -> None:
    """Logs an unexpected end of a child with the end of its stderr."""
    size = os.fstat(child.stderr).st_size
    tail = os.pread(child.stderr, _STDERR_TAIL_BYTES, max(0, size - _STDERR_TAIL_BYTES))
    _log.warning(
        "child process %d died (%s), a new one takes its place",
        child.process.pid,
        cause(code),
        extra={"action": "cpu_pool.child_died", "child_stderr": tail.decode(errors="replace")},
    )
