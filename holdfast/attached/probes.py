"""A small HTTP server of an attached process: /livez, /readyz and, with ``prometheus_client``, /metrics."""

from __future__ import annotations

import json
import logging
import math
import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from holdfast import probe_paths
from holdfast.dbos_adapter.registrations import workflow_names
from holdfast.observability import metrics
from holdfast.observability.exposition import Exposition

if TYPE_CHECKING:
    from holdfast.attached.process import AttachedProcess

log = logging.getLogger("holdfast.probes")

CLIENT_SECONDS = 5.0
"""Time limit for each byte of a request, and for the whole answer."""
CONNECTION_LIMIT = 16
"""Each connection has a thread. Above this limit, the oldest connection is closed."""


class _ProbeServer(ThreadingHTTPServer):
    """A threading server whose number of connections is bounded."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._open: dict[int, socket.socket] = {}
        self._lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open[id(request)] = request
            oldest = next(iter(self._open.values())) if len(self._open) > CONNECTION_LIMIT else None
            if oldest is not None:
                del self._open[id(oldest)]
                with suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(id(request), None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs nothing: a client that disconnects or is disconnected is no error of the application."""


class Probes:
    """Answers probes in daemon threads until `stop`."""

    def __init__(self, process: AttachedProcess, host: str, port: int) -> None:
        self._process = process
        self._address = (host, port)
        self._server: _ProbeServer | None = None

    def start(self) -> None:
        """Starts to listen. A port in use costs the probes, not the application."""
        try:
            self._server = _ProbeServer(self._address, _handler(self._process))
        except OSError as error:
            log.warning(
                "no probes and no metrics of this process: cannot listen on %s:%d: %s",
                *self._address,
                error.strerror,
                extra={"action": "probes.failed"},
            )
            return
        threading.Thread(target=self._server.serve_forever, name="holdfast-probes", daemon=True).start()

    def descriptors(self) -> list[int]:
        """Returns the socket on which it listens, while it does."""
        return [] if self._server is None else [self._server.fileno()]

    def stop(self) -> None:
        """Stops to listen."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


def show_metrics(process: AttachedProcess) -> None:
    """Sets the sources of this process's metrics."""
    metrics.set_build(process.identity)
    metrics.announce(workflows=workflow_names())
    metrics.READY.set_function(lambda: process.ready()[0])
    metrics.RUNNING.set_function(lambda: len(process.active()))
    metrics.ABANDONED_THREADS.set_function(lambda: len(process.waker.slots.abandoned))
    metrics.CLOCK_DIFFERENCE.set_function(lambda: process.lease.clock_difference_seconds)
    metrics.HEARTBEAT_AGE.set_function(lambda: time.monotonic() - process.lease.last_heartbeat)
    metrics.DRAINING_SECONDS.set_function(lambda: process.draining_seconds)


def _handler(process: AttachedProcess) -> type[BaseHTTPRequestHandler]:
    exposition = Exposition()

    class Handler(BaseHTTPRequestHandler):
        timeout = CLIENT_SECONDS

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == probe_paths.LIVE:
                self._answer(200, {"status": "ok", "executor_id": process.executor_id})
            elif path == probe_paths.READY:
                ready, checks = process.ready()
                status = "ok" if ready else "unready"
                body = {"status": status, "executor_id": process.executor_id, "checks": checks}
                self._answer(200 if ready else 503, body)
            elif path == probe_paths.METRICS and metrics.AVAILABLE:
                self._show_metrics()
            else:
                self._answer(404, {"title": "not found"})

        def _show_metrics(self) -> None:
            from prometheus_client import CONTENT_TYPE_LATEST

            if wait := exposition.admit(self.client_address[0]):
                self._answer(429, {"title": "too many scrapes", "seconds": math.ceil(wait)})
            else:
                self._send(200, CONTENT_TYPE_LATEST, exposition.fresh() or exposition.text())

        def _answer(self, status: int, body: object) -> None:
            self._send(status, "application/json", json.dumps(body).encode())

        def _send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Logs no probe."""

    return Handler
