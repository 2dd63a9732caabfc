"""A child process that kills this process if C code blocks its interpreter by holding the GIL.

A blocked process cannot help itself: no thread runs, so there is no heartbeat, no fencing and no signal
handler. `watchdog_child` contains the child's rules. The child needs no database.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from holdfast.executor_settings import ExecutorSettings
from holdfast.identity import Identity
from holdfast.observability.captured_output import original_output
from holdfast.recovery import watchdog_child

log = logging.getLogger("holdfast.watchdog")

# Imported as a module: a file is compiled at each start, which takes memory and 20 ms. The folder comes last
# on the path, so that no other module in it hides one of the standard library.
_PROGRAM = (
    "import sys; sys.path.append(sys.argv.pop(1)); import watchdog_child; watchdog_child.run(sys.argv[1:])"
)
_FOLDER = str(Path(watchdog_child.__file__).parent)
_PARENTS_DECISION = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
_FIRST_PAUSE_SECONDS, _LAST_PAUSE_SECONDS = 0.1, 5.0


def mark_process() -> str:
    """Sets a mark in this process's environment, which all programs it starts inherit. Returns the mark.

    A mark from the supervisor is kept: the process, and so its forks, has it from its start. The mark begins
    with the parent's pid, so that a worker inside a worker's step gets a different one.
    """
    parent = f"{os.getppid()}-"
    if not os.environ.get(watchdog_child.MARK, "").startswith(parent):
        os.environ[watchdog_child.MARK] = parent + secrets.token_hex(8)
    return os.environ[watchdog_child.MARK]


def _is_debugged() -> bool:
    """Whether a debugger is attached that can suspend all threads.

    pydevd (debugpy, PyCharm) suspends all threads, and is imported when it attaches. pdb stops only its own
    thread. A trace function is no evidence, because coverage sets one too.
    """
    monitoring = getattr(sys, "monitoring", None)  # from Python 3.12 on
    return "pydevd" in sys.modules or (
        monitoring is not None and monitoring.get_tool(monitoring.DEBUGGER_ID) is not None
    )


class Watchdog:
    """Runs one child process, pings it from a thread, and starts a new one if it ends."""

    def __init__(self, settings: ExecutorSettings, identity: Identity, *, ends_programs: bool = True) -> None:
        """``ends_programs``: the child ends what this process leaves running (`mark_process`)."""
        self._period_seconds = settings.heartbeat_seconds / 4
        limits = (settings.blocked_seconds, settings.lease_seconds + settings.heartbeat_seconds / 2)
        self._arguments = [
            *(str(number) for number in (*limits, self._period_seconds)),
            identity.role,
            identity.executor_id,
        ]
        self._ends_programs = ends_programs
        self._lock = threading.Lock()
        self._session: int | None = None
        self._channel: socket.socket | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Starts the child and the pings. Raises ``OSError`` if no process can be started."""
        if os.getpid() == 1:
            log.warning(
                "this process is PID 1 of its container, so its watchdog cannot kill it when its interpreter"
                " is blocked: run the container with an init (docker run --init; in Compose init: true)",
                extra={"action": "watchdog.powerless"},
            )
        self._start_child()
        self._thread.start()

    def stop(self) -> None:
        """Ends the child, which first ends the programs that this process left running. Idempotent."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=1)
        with self._lock, suppress(OSError):
            if self._channel is not None:
                self._channel.send(watchdog_child.END)
        self._end_child()

    @property
    def pid(self) -> int | None:
        """The pid of the child, or None while there is none."""
        return self._child.pid if self._child is not None else None

    def descriptors(self) -> list[int]:
        """Returns the socket to the child, while there is one."""
        channel = self._channel
        return [] if channel is None else [channel.fileno()]

    def watch(self, session: int | None) -> None:
        """Passes the socket of the lease session to the child, which closes it if this process is blocked.

        Call with None before the session is closed, because its descriptor may be reused afterwards.
        """
        with self._lock:
            self._session = session
            with suppress(OSError):  # the next ping fails too, and starts a new child
                self._send_session()

    def _send_session(self) -> None:
        if self._channel is None:
            return
        if self._session is None:
            self._channel.send(watchdog_child.NO_SESSION)
        else:
            socket.send_fds(self._channel, [watchdog_child.SESSION], [self._session])

    def _run(self) -> None:
        pause_seconds = _FIRST_PAUSE_SECONDS
        while not self._stop.wait(self._period_seconds):
            try:
                if self._channel is None:
                    self._start_child()
                assert self._channel is not None
                self._channel.send(watchdog_child.DEBUGGED if _is_debugged() else watchdog_child.PING)
                pause_seconds = max(_FIRST_PAUSE_SECONDS, pause_seconds * 0.9)
            except BlockingIOError:
                pass  # the child is paused, which says nothing about this process
            except OSError as error:
                log.warning(
                    "watchdog process lost: %s; starting a new one", error, extra={"action": "watchdog.lost"}
                )
                self._end_child()
                self._stop.wait(pause_seconds)
                pause_seconds = min(pause_seconds * 2, _LAST_PAUSE_SECONDS)

    def _start_child(self) -> None:
        ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        own = (str(theirs.fileno()), str(os.getpid()))
        # -I and -S: only the standard library. The child's stdout is our log, so tracebacks (stderr) are
        # dropped. Its lines need no other process, so they are complete when it kills us.
        command = [sys.executable, "-I", "-S", "-c", _PROGRAM, _FOLDER, *own, *self._arguments]
        # The child inherits the blocked signals: only the parent handles a signal to the group, and the child
        # ends after it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _PARENTS_DECISION)
        environment = dict(os.environ)
        if not self._ends_programs:
            environment.pop(watchdog_child.MARK, None)
        try:
            with theirs:
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=original_output(),
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env=environment,
                )
        except BaseException:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        with self._lock:
            self._channel, self._child = ours, child
            with suppress(OSError):
                self._send_session()

    def _end_child(self) -> None:
        with self._lock:
            channel, self._channel = self._channel, None
            child, self._child = self._child, None
        if channel is not None:
            channel.close()
        if child is not None:
            try:
                child.wait(1)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
