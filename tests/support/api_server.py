"""The API on real sockets, served as in production, but without the life of a whole process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from dbos import DBOSClient

from holdfast.api.access import read_token
from holdfast.control.runner import Operations
from holdfast.dbos_adapter.gateway import Gateway
from holdfast.process.serve import http_config
from holdfast.settings import Settings
from tests.support.app import create_app
from tests.support.database import Database, wait_until
from tests.support.executors import Peer, identity
from tests.unit.api_fakes import FakeProcess


@dataclass
class Api:
    """The application with uvicorn, in a thread."""

    process: FakeProcess
    server: uvicorn.Server
    http: httpx.Client
    address: tuple[str, int]

    @property
    def client(self) -> DBOSClient:
        gateway: Any = self.process.gateway
        found: DBOSClient = gateway.client
        return found


@contextmanager
def serving_with_token(database: Database, file: Path, token: str) -> Iterator[Api]:
    """Serves beside a worker. All requests need the token, which is in ``file``."""
    file.write_text(token, "ascii")
    Peer.start(database, "worker-a")
    with serving(database.settings("api", require_token=True, admin_token_file=file)) as made:
        yield made


@contextmanager
def serving(
    settings: Settings,
    process: FakeProcess | None = None,
    *,
    heartbeat_age_seconds: Callable[[], float] = float,
) -> Iterator[Api]:
    """Serves with the real gateway. The database counts as up until a call fails."""
    process = process or FakeProcess()
    process.settings = settings  # type: ignore[assignment]
    gateway = Gateway(
        settings,
        purpose="holdfast/api-test",
        database_up=lambda: True,
        heartbeat_age_seconds=heartbeat_age_seconds,
    )
    process.gateway = gateway  # type: ignore[assignment]
    operations = Operations(settings, identity("api-test", application="holdfast-api"), gateway.pool)
    process.operations = operations  # type: ignore[assignment]
    operations.start()
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    server = uvicorn.Server(http_config(create_app(process)))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    address = listener.getsockname()
    file = settings.admin_token_file
    headers = {"Authorization": f"Bearer {read_token(file)}"} if file else {}
    with httpx.Client(
        base_url=f"http://127.0.0.1:{address[1]}", timeout=20, trust_env=False, headers=headers
    ) as http:
        try:
            wait_until(lambda: server.started, "uvicorn listens")
            yield Api(process, server, http, address)
        finally:
            server.should_exit = server.force_exit = True
            thread.join(10)
            operations.stop()
            gateway.close()
            assert not thread.is_alive()
