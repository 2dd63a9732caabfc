"""The containers' health check, run as they run it: a file, a port, a path."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from holdfast.installations.embedded import ROOT


class _Unready(BaseHTTPRequestHandler):
    """A process whose PostgreSQL is away."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/livez" else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), _Unready) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def _check(*arguments: object) -> int:
    command = [sys.executable, "-IS", str(ROOT / "holdfast" / "cli" / "healthcheck.py"), *map(str, arguments)]
    return subprocess.run(command, timeout=20).returncode


def test_it_asks_for_readiness_or_for_the_named_path(port: int) -> None:
    assert _check(port) == _check(port, "/readyz") == 1
    assert _check(port, "/livez") == 0


def test_nobody_there_is_not_healthy() -> None:
    with HTTPServer(("127.0.0.1", 0), _Unready) as server:
        free = server.server_port
    assert _check(free, "/livez") == 1
