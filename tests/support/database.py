"""One embedded PostgreSQL per test session, and a fresh migrated database for each test that needs one."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions
import psycopg2.extras

from holdfast.installations.embedded import ROOT, Cluster, installed
from holdfast.installations.secrets import make_secrets
from holdfast.postgres.database import Connection, Row, connect, query
from holdfast.settings import Settings
from services.settings import ShowcaseSettings
from tests.support import data_folder

_TEMPLATE = "holdfast"
"""The database that roles.sql creates. It is migrated once and then only cloned."""

_VARIABLES = ("USER", "HOST", "PORT", "NAME", "PASSFILE")
_numbers = itertools.count()


PATIENCE = 4.0
"""Waits give the limits of an idle machine, times this: other work beside a test makes it slower, not red."""


def wait_until(condition: Callable[[], Any], what: str, *, seconds: float = 10.0) -> Any:
    """Waits for the condition's first true value and returns it. Fails with ``what`` when it never comes.

    ``seconds`` is enough on an idle machine; see ``PATIENCE``.
    """
    deadline = time.monotonic() + PATIENCE * seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {PATIENCE * seconds:g} s in vain: {what}"
        time.sleep(0.005)
    return value


class Server:
    """The session's PostgreSQL with Holdfast's roles, configuration and migrations."""

    def __init__(self, *, durable: bool = False) -> None:
        with data_folder.as_temporary():
            # The database's user may not be able to enter pytest's own directory.
            self.home = Path(tempfile.mkdtemp(prefix="holdfast-test-"))
            self.secrets = self.home / "secrets"
            make_secrets(self.secrets)
            (self.home / "logs").mkdir()
            self.cluster = Cluster(self.home, self.secrets)
            self.cluster.prepare()
        # No data survives the session, so none needs to survive a power cut.
        if not durable:
            with (self.cluster.data / "postgresql.auto.conf").open("a") as file:
                file.write("fsync = off\nfull_page_writes = off\n")
        self.cluster.start()
        self.cluster.apply_roles()
        self.migrate(_TEMPLATE)

    def environment(self, name: str, role: str = "worker") -> dict[str, str]:
        """Returns the environment with which a process of that role reaches a database here."""
        user = "holdfast_migrator" if role == "migrate" else f"holdfast_{role}"
        values = (user, "127.0.0.1", str(self.cluster.port), name, str(self.secrets / role / "pgpass"))
        found = {f"HOLDFAST_DATABASE_{key}": value for key, value in zip(_VARIABLES, values, strict=True)}
        # Tests write rows with this version, independent of the code's version.
        found["HOLDFAST_APPLICATION_VERSION"] = "1"
        if role == "api":
            found["HOLDFAST_ADMIN_TOKEN_FILE"] = str(self.secrets / "api" / "admin_token")
        return found

    def migrate(self, name: str) -> None:
        """Runs ``dbos migrate`` as the migrate container does."""
        binaries = Path(sys.executable).parent
        environment = {
            **os.environ,
            **self.environment(name, "migrate"),
            "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        done = subprocess.run(
            [str(binaries / "dbos"), "migrate"], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"`dbos migrate` failed:\n{done.stdout}{done.stderr}"

    def admin(self, name: str = "postgres") -> Connection:
        """Returns an autocommit connection of the superuser."""
        connection: Connection = psycopg2.connect(
            host="127.0.0.1",
            port=self.cluster.port,
            user="postgres",
            dbname=name,
            password=(self.secrets / "postgres" / "superuser").read_text("ascii").strip(),
            application_name="test-admin",
            cursor_factory=psycopg2.extras.RealDictCursor,
        )
        connection.autocommit = True
        return connection

    def psql(self, name: str, script: str) -> None:
        """Runs a script of ``psql`` as the superuser in a database."""
        environment = {
            **os.environ,
            "PGPASSWORD": (self.secrets / "postgres" / "superuser").read_text("ascii"),
        }
        environment["PGPASSWORD"] = environment["PGPASSWORD"].strip()
        place = ["--host=127.0.0.1", f"--port={self.cluster.port}", "--username=postgres", f"--dbname={name}"]
        done = subprocess.run(
            [installed() / "bin" / "psql", "--no-psqlrc", "-q", *place, "--file=-"],
            input=script,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    def run(self, statement: str) -> None:
        """Runs a statement outside the tests' databases."""
        connection = self.admin()
        try:
            connection.cursor().execute(statement)
        finally:
            connection.close()

    def restart(self, *, at_once: bool = False) -> None:
        """Restarts the server. With ``at_once``, it stops like in a crash and recovers at the start."""
        process = self.cluster.process
        assert process is not None
        process.send_signal(signal.SIGQUIT if at_once else signal.SIGINT)
        process.wait(30)
        self.cluster.start()

    def processes(self) -> list[int]:
        """Returns the process ids of the postmaster and all its children."""
        assert self.cluster.process is not None
        parent = self.cluster.process.pid
        pids = [parent]
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                if int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == parent:
                    pids.append(int(entry.name))
        return pids

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Suspends the server, like a stalled disk or ``docker pause``. Connections stay open."""
        pids = self.processes()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        """Stops the server and deletes its data."""
        process = self.cluster.process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGQUIT)
            process.wait(10)
        self.cluster.stop()
        self.cluster.remove()
        shutil.rmtree(self.home, ignore_errors=True)


@dataclass
class Database:
    """A fresh database for one test."""

    server: Server
    name: str
    _open: list[Connection] = field(default_factory=list)
    _own: Connection | None = None

    @classmethod
    def create(cls, server: Server) -> Database:
        """Clones the migrated template."""
        name = f"test_{next(_numbers)}"
        # FILE_COPY is twice as fast as a copy through the write-ahead log if nothing is flushed.
        server.run(f'CREATE DATABASE "{name}" TEMPLATE "{_TEMPLATE}" STRATEGY FILE_COPY OWNER holdfast_owner')
        return cls(server, name)

    @classmethod
    @contextmanager
    def lent(cls, server: Server) -> Iterator[Database]:
        """Yields a database for the life of the context."""
        made = cls.create(server)
        try:
            yield made
        finally:
            made.drop()

    @property
    def admin_url(self) -> str:
        """The URL of this database with the superuser's name and password, as a user's own tools have it."""
        password = (self.server.secrets / "postgres" / "superuser").read_text("ascii").strip()
        return f"postgresql://postgres:{password}@127.0.0.1:{self.server.cluster.port}/{self.name}"

    def drop(self) -> None:
        """Closes the test's connections and drops the database."""
        for connection in self._open:
            connection.close()
        self.server.run(f'DROP DATABASE "{self.name}" WITH (FORCE)')

    def settings(self, role: str = "worker", **options: Any) -> Settings:
        """Returns settings for this database. ``options`` are fields of ``Settings``."""
        environment = self.server.environment(self.name, role)
        before = {key: os.environ.get(key) for key in environment}
        os.environ.update(environment)
        try:
            settings = ShowcaseSettings(config_file=ROOT / "dbos-config.yaml", **options)
            assert settings.database_url  # cached now: it depends on the environment
        finally:
            for key, value in before.items():
                if value is None:
                    del os.environ[key]
                else:
                    os.environ[key] = value
        return settings

    def connect(self, purpose: str = "test", role: str = "worker") -> Connection:
        """Returns a connection like the runtime's. It is closed at the test's end."""
        connection = connect(self.settings(role), purpose=purpose)
        self._open.append(connection)
        return connection

    def admin(self) -> Connection:
        """Returns a superuser's connection to this database. It is closed at the test's end."""
        connection = self.server.admin(self.name)
        self._open.append(connection)
        return connection

    def rows(self, statement: str, **parameters: Any) -> list[Row]:
        """Runs a statement as the superuser and returns its rows. Reconnects after a lost connection."""
        try:
            return self._rows(statement, parameters)
        except (psycopg2.OperationalError, psycopg2.InterfaceError):
            if self._own is None or not self._own.closed:
                raise
            return self._rows(statement, parameters)

    def _rows(self, statement: str, parameters: dict[str, Any]) -> list[Row]:
        if self._own is None or self._own.closed:
            self._own = self.admin()
        with self._own.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return [dict(row) for row in cursor.fetchall()] if cursor.description else []

    def one(self, statement: str, **parameters: Any) -> Any:
        """Returns the only value of the only row."""
        (row,) = self.rows(statement, **parameters)
        (value,) = row.values()
        return value

    def run(self, name: str, /, **parameters: Any) -> list[Row]:
        """Runs a named statement of the runtime over a separate connection."""
        connection = self.connect()
        try:
            return query(connection, name, **parameters)
        finally:
            connection.close()
