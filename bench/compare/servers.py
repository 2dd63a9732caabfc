"""The servers below the peers, each with its data in a directory of its own, on loopback, and checked:
a figure counts only when a commit waits for the disk."""

from __future__ import annotations

import shutil
import socket
import time
from abc import ABC, abstractmethod
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2

from bench.compare.processes import PEERS, NotMeasured, Running
from holdfast.installations.embedded import Cluster
from holdfast.installations.ports import free_port
from holdfast.installations.secrets import make_secrets

DURABLE = {"synchronous_commit": "on", "fsync": "on", "full_page_writes": "on"}
REPORTED = ("shared_buffers", "max_wal_size", "wal_compression", "wal_sync_method", "max_connections")
REDIS_DURABLE = {"appendonly": "yes", "appendfsync": "always"}


def postgres_settings(connection: Any) -> dict[str, str]:
    """What the server says of itself. Raises `NotMeasured` when a commit does not wait for the disk."""
    found = {}
    with connection.cursor() as cursor:
        for name in ("server_version", *DURABLE, *REPORTED):
            cursor.execute(f"SHOW {name}")
            row = cursor.fetchone()
            found[name] = str(next(iter(row.values())) if isinstance(row, dict) else row[0])
    wrong = {name: found[name] for name, wanted in DURABLE.items() if found[name] != wanted}
    if wrong:
        raise NotMeasured(f"PostgreSQL is not durable: {wrong}")
    return found


class Server(ABC):
    """A server that a peer needs."""

    @abstractmethod
    def start(self, home: Path) -> dict[str, str]:
        """Starts it; the options by which the peer's programs reach it. Raises `NotMeasured`."""

    @abstractmethod
    def stop(self) -> None:
        """Ends it and deletes its data. Idempotent."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Returns version and settings, as the server reports them."""


class Postgres(Server):
    """The same binaries and the same postgresql.conf as Holdfast's own."""

    def __init__(self, scheme: str = "postgresql") -> None:
        self.scheme = scheme
        self._cluster: Cluster | None = None
        self._settings: dict[str, str] = {}

    def start(self, home: Path) -> dict[str, str]:
        secrets = home / "secrets"
        (home / "logs").mkdir(parents=True)
        make_secrets(secrets)
        cluster = self._cluster = Cluster(home, secrets)
        cluster.prepare()
        cluster.start()
        # No password in an address, where a log could show it.
        passfile = home / "pgpass"
        passfile.touch(0o600)
        word = (secrets / "postgres" / "superuser").read_text("ascii").strip()
        passfile.write_text(f"*:*:*:postgres:{word}\n", "ascii")
        where = {"host": "127.0.0.1", "port": cluster.port, "user": "postgres", "passfile": str(passfile)}
        with closing(psycopg2.connect(dbname="postgres", **where)) as connection:
            connection.autocommit = True
            connection.cursor().execute("CREATE DATABASE bench")
        with closing(psycopg2.connect(dbname="bench", **where)) as connection:
            self._settings = postgres_settings(connection)
        address = f"postgres@127.0.0.1:{cluster.port}/bench?passfile={passfile}"
        return {"url": f"{self.scheme}://{address}"}

    def stop(self) -> None:
        if self._cluster is not None:
            self._cluster.stop()
            self._cluster.remove()
            self._cluster = None

    def describe(self) -> dict[str, str]:
        return {f"PostgreSQL {name}": value for name, value in self._settings.items()}


class Redis(Server):
    """redis-server with an append-only file that every write waits for."""

    def __init__(self) -> None:
        self._running: Running | None = None
        self._told: dict[str, str] = {}

    def start(self, home: Path) -> dict[str, str]:
        program = shutil.which("redis-server")
        if program is None:
            raise NotMeasured("redis-server is not on the PATH (Debian: apt-get install redis-server)")
        home.mkdir(parents=True)
        port = free_port()
        options = {
            "bind": "127.0.0.1",
            "port": str(port),
            "dir": str(home),
            "save": "",
            "daemonize": "no",
            **REDIS_DURABLE,
        }
        command = [program, *(part for name, value in options.items() for part in (f"--{name}", value))]
        running = self._running = Running(command, home / "redis.log")
        running.wait_for(lambda: self._ping(port), 15, "redis-server")
        asked = {name: self._ask(port, "CONFIG", "GET", name)[-1] for name in REDIS_DURABLE}
        if asked != REDIS_DURABLE:
            raise NotMeasured(f"Redis is not durable: {asked}")
        lines = self._ask(port, "INFO", "server")[0].splitlines()
        version = next(line.partition(":")[2] for line in lines if line.startswith("redis_version:"))
        self._told = {"Redis server_version": version} | {f"Redis {k}": v for k, v in asked.items()}
        base = f"redis://127.0.0.1:{port}"
        return {"broker": f"{base}/0", "backend": f"{base}/1"}

    def stop(self) -> None:
        if self._running is not None:
            self._running.end()
            self._running = None

    def describe(self) -> dict[str, str]:
        return self._told

    @classmethod
    def _ping(cls, port: int) -> bool:
        try:
            return cls._ask(port, "PING") == ["PONG"]
        except OSError:
            return False

    @staticmethod
    def _ask(port: int, *words: str) -> list[str]:
        """One command in Redis' own protocol: its client belongs to the peers' environment."""
        parts = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(f"*{len(words)}\r\n{parts}".encode())
            file = connection.makefile("rb")

            def read() -> list[str]:
                head = file.readline().decode().strip()
                if head[:1] == "*":
                    return [text for _ in range(int(head[1:])) for text in read()]
                if head[:1] == "$":
                    return [file.read(int(head[1:]) + 2)[:-2].decode()]
                return [head[1:]]

            return read()


class TemporalServer(Server):
    """``temporal server start-dev`` with its file, committed in SQLite's full synchronous mode."""

    def __init__(self) -> None:
        self._running: Running | None = None
        self._told: dict[str, str] = {}

    def start(self, home: Path) -> dict[str, str]:
        program = PEERS / "bin" / "temporal"
        if not program.exists():
            raise NotMeasured("the peers' environment has no temporal: `make bench-venv` makes it")
        home.mkdir(parents=True)
        port = free_port()
        command = [
            str(program), "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(port),
            "--http-port", str(free_port()), "--metrics-port", str(free_port()),
            "--db-filename", str(home / "temporal.db"), "--log-level", "error",
            "--sqlite-pragma", "journal_mode=wal", "--sqlite-pragma", "synchronous=full",
        ]  # fmt: skip
        running = self._running = Running(command, home / "temporal.log", {"HOME": str(home)})
        running.wait_for(lambda: _listens(port), 30, "temporal server")
        time.sleep(1)  # it accepts connections before its namespace is there
        output = running.log.read_text("utf-8", "replace")
        version = next((line for line in output.splitlines() if "Server " in line), "").strip()
        self._told = {"Temporal server": version or "development server", "SQLite synchronous": "full"}
        return {"address": f"127.0.0.1:{port}"}

    def stop(self) -> None:
        if self._running is not None:
            self._running.end()
            self._running = None

    def describe(self) -> dict[str, str]:
        return self._told


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
