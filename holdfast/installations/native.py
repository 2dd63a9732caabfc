"""Holdfast without containers: ``python -m holdfast.installations.native up|down|clean``.

The API, two workers and an embedded PostgreSQL as plain processes, with what Compose would do for them:
secrets, roles and migration first, a restart after every exit (``unless-stopped``), a drain at the end.
Everything lives in ``.holdfast/``; ``native.json`` there records what runs, for the demo and the tests.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from pydantic import ValidationError

from holdfast.installations.embedded import ROOT, Cluster, last_line, native_home
from holdfast.installations.native_error import NativeError
from holdfast.installations.state_file import read_state
from holdfast.installations.supervised import is_alive
from holdfast.installations.supervisor import Supervisor
from holdfast.visible import visible, visible_lines

START_SECONDS = 120.0
"""Timeout of a background start. The first one on a slow machine creates the database."""

_MADE = ("hold", "logs", "native.json", "native.json.new", "postgres", "postgres-place", "secrets", "lock")
"""All that a stack creates in its directory. The lock marks the directory: it comes first and goes last."""


def take_lock(home: Path) -> int:
    """Acquires the lock that one supervisor holds for its life, and returns its file descriptor.

    The kernel releases it when the process dies in any way. Raises ``NativeError`` if it is held.
    """
    home.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        state = read_state(home)
        raise NativeError(
            f"Holdfast runs already from {home} (pid {state.get('pid', 'unknown')}, "
            f"{state.get('api_url', 'still starting')}); `make down` ends it"
        ) from None
    return descriptor


def is_running(home: Path) -> bool:
    """Whether a supervisor holds the lock of this directory."""
    if not (home / "lock").exists():  # taking it would mark a directory that is not ours
        return False
    try:
        os.close(take_lock(home))
    except NativeError:
        return True
    return False


def up(home: Path, workers: int, port: int, *, quiet: bool = False) -> int:
    """Runs in the foreground until SIGINT or SIGTERM, and returns the exit code."""
    lock = take_lock(home)
    try:
        return Supervisor(home, workers, port, quiet=quiet).run()
    finally:
        os.close(lock)


def up_detached(home: Path, workers: int, port: int) -> None:
    """Starts in the background and returns when everything is ready. Raises ``NativeError`` if that fails."""
    os.close(take_lock(home))  # fails immediately if a supervisor already runs
    log = home / "logs" / "native.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    arguments = ["up", "--data", str(home), "--workers", str(workers), "--port", str(port), "--quiet"]
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "holdfast.installations.native", *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while True:
        state = read_state(home)
        if state.get("pid") == child.pid and state.get("ready"):
            break
        if child.poll() is not None:
            raise NativeError(last_line(log).removeprefix("native: "))
        if time.monotonic() > deadline:
            _end(child.pid, 60.0)
            raise NativeError(f"not ready after {START_SECONDS:g} s; see {log.parent}")
        time.sleep(0.05)
    print(f"Holdfast is ready at {state['api_url']} (PostgreSQL and {workers} workers beside it, logs in")
    print(f"{log.parent}); `make down` ends it")


def down(home: Path) -> bool:
    """Stops the stack of this directory with a drain. Returns False if nothing ran."""
    if not home.is_dir() or not is_running(home):
        return False
    state = read_state(home)
    pid = int(state.get("pid", 0))
    if not is_alive(pid, state.get("started")):
        raise NativeError(
            f"something holds {home / 'lock'}, but {home / 'native.json'} does not record its pid"
        )
    _end(pid, float(state["stop_grace_seconds"]) + 60.0)
    return True


def clean(home: Path) -> None:
    """Stops the stack and deletes what it has created, including the data. What else is there stays.

    Raises ``NativeError`` for a directory that no stack has used: a mistaken HOLDFAST_HOME.
    """
    if not home.is_dir():
        return
    if any(home in (kept, *kept.parents) for kept in (ROOT, Path.home().resolve())):
        raise NativeError(f"{home} holds more than Holdfast's data: nothing in it was deleted")
    if not (home / "lock").is_file() and home != ROOT / ".holdfast":
        raise NativeError(f"Holdfast never ran from {home}: nothing in it was deleted")
    down(home)
    Cluster(home, home / "secrets").remove()
    for path in (home / name for name in _MADE):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if left := sorted(path.name for path in home.iterdir()):
        print(f"{home} keeps what is not Holdfast's: {visible(', '.join(left))}")
    else:
        home.rmdir()


def _end(pid: int, patience_seconds: float) -> None:
    """Sends SIGTERM, waits, and then sends SIGKILL. The children end with their parent."""
    deadline = time.monotonic() + patience_seconds
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        while is_alive(pid):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m holdfast.installations.native", description=__doc__)
    parser.add_argument("command", choices=["up", "down", "clean"])
    parser.add_argument("--data", type=Path, default=None, help="directory of everything")
    parser.add_argument("--workers", type=int, default=None, help="number of workers (2)")
    parser.add_argument("--port", type=int, default=None, help="port of the API (8000)")
    parser.add_argument("--detach", action="store_true", help="return when all is ready")
    parser.add_argument("--quiet", action="store_true", help="logs to their files alone")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """The entry point. An error that the user can fix results in a one-line message and exit code 1."""
    options = _arguments(arguments)
    home: Path = (options.data or native_home()).resolve()
    # As in Compose, .env provides the variables that the shell does not set.
    for name, value in dotenv_values(ROOT / ".env").items():
        if name.startswith("HOLDFAST_") and value is not None:
            os.environ.setdefault(name, value)

    def chosen(option: Any, variable: str, default: int) -> int:
        if option is not None:
            return int(option)
        try:
            return int(os.environ.get(variable) or default)
        except ValueError:
            raise NativeError(f"{variable} must be a whole number") from None

    try:
        if options.command == "down":
            print("Holdfast has ended" if down(home) else f"no plain processes of Holdfast run from {home}")
        elif options.command == "clean":
            clean(home)
        else:
            workers = chosen(options.workers, "HOLDFAST_WORKERS", 2)
            port = chosen(options.port, "HOLDFAST_API_PORT", 8000)
            if options.detach:
                up_detached(home, workers, port)
            else:
                return up(home, workers, port, quiet=options.quiet)
    except NativeError as error:
        print(f"native: {visible_lines(str(error))}", file=sys.stderr)
        return 1
    except ValidationError as error:
        wrong = "; ".join(
            ": ".join([*(f"HOLDFAST_{part}".upper() for part in entry["loc"]), entry["msg"]])
            for entry in error.errors()
        )
        print(f"native: a setting is wrong: {visible(wrong)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
