"""Makes all output of this process JSON lines, also what does not go through Python's logging.

The descriptors 1 and 2 become pipes to `json_lines`, a program that outlives this process until it has read
them to their end. Our own log lines go to the original standard output directly, so they do not depend on it.
"""

from __future__ import annotations

import array
import fcntl
import logging
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TextIO

from holdfast.observability import json_lines

log = logging.getLogger("holdfast.process")

_PROGRAM = Path(json_lines.__file__)
_MARK = "HOLDFAST_PROCESS"
"""The mark of a process and its programs, which all end with the process (`recovery.watchdog_child`)."""
_WRITTEN_SECONDS = 0.5
_stream: TextIO | None = None
_PARENTS_DECISION = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}


def capture_output() -> TextIO:
    """Redirects the descriptors 1 and 2 of this process. Returns the original standard output.

    Also installs hooks that log uncaught exceptions of all threads, each as one line.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    original = os.dup(1)
    out_reader, out_writer = os.pipe()
    error_reader, error_writer = os.pipe()
    program = _start_program(out_reader, error_reader, original)
    for reader in (out_reader, error_reader):
        os.close(reader)
    for writer, descriptor in ((out_writer, 1), (error_writer, 2)):
        os.dup2(writer, descriptor)
        os.close(writer)
    _log_uncaught()
    global _stream  # noqa: PLW0603
    _stream = stream = os.fdopen(original, "w", encoding="utf-8", errors="backslashreplace", buffering=1)
    threading.Thread(
        target=_replace_program, args=(program, stream), name="captured-output", daemon=True
    ).start()
    return stream


def original_output() -> int | None:
    """Returns the original standard output, for a program that writes JSON lines. None if not captured."""
    return None if _stream is None else _stream.fileno()


def _start_program(out_reader: int, error_reader: int, original: int) -> subprocess.Popen[bytes]:
    # It inherits the blocked signals: it ends with the pipes, not by a signal.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _PARENTS_DECISION)
    try:
        # A session of its own: what ends with this process, or by a key of its terminal, does not include it.
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(_PROGRAM), str(error_reader)],
            stdin=out_reader,
            stdout=original,
            stderr=original,
            env={name: value for name, value in os.environ.items() if name != _MARK},
            cwd="/",
            pass_fds=[error_reader],
            start_new_session=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _replace_program(program: subprocess.Popen[bytes], stream: TextIO) -> None:
    """Waits for the end of `json_lines`. Without it, each print would fail, so plain text is better."""
    status = program.wait()
    for descriptor in (1, 2):
        os.dup2(stream.fileno(), descriptor)
    log.warning(
        "the program that makes JSON lines of plain text has ended (status %d): such text stays plain now",
        status,
        extra={"action": "output.plain"},
    )


def wait_until_written() -> None:
    """Waits until `json_lines` has read what this process wrote so far, at most half a second."""
    deadline = time.monotonic() + _WRITTEN_SECONDS
    while any(_unread_bytes(descriptor) for descriptor in (1, 2)) and time.monotonic() < deadline:
        time.sleep(0.005)


def _unread_bytes(descriptor: int) -> int:
    count = array.array("i", [0])
    try:
        fcntl.ioctl(descriptor, termios.FIONREAD, count)
    except OSError:  # not a pipe
        return 0
    return count[0]


def _log_uncaught() -> None:
    def in_main_thread(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        log.critical("ended by an error", exc_info=(kind, error, trace), extra={"action": "executor.failed"})

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is None or issubclass(args.exc_type, SystemExit):
            return
        log.error(
            "thread %s ended by an error",
            args.thread.name if args.thread else "unknown",
            exc_info=(args.exc_type, args.exc_value, args.exc_traceback),
            extra={"action": "thread.failed"},
        )

    def unraisable(args: sys.UnraisableHookArgs) -> None:
        log.error(
            "an error that nothing can handle: %s", args.err_msg or args.object, exc_info=args.exc_value
        )

    sys.excepthook = in_main_thread
    threading.excepthook = in_thread
    sys.unraisablehook = unraisable
    logging.captureWarnings(True)
