"""A collector: an HTTP server that takes spans over OTLP and keeps them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

SERVER = 2
"""SPAN_KIND_SERVER."""


@dataclass(frozen=True)
class Span:
    """One finished span; ids in hexadecimal, ``parent`` empty at the root."""

    name: str
    kind: int
    trace: str
    id: str
    parent: str
    failed: bool
    attributes: dict[str, Any] = field(hash=False)
    resource: dict[str, Any] = field(hash=False)

    @property
    def workflow_id(self) -> str | None:
        """The workflow that DBOS made it for."""
        return self.attributes.get("dbos.operation.workflow_id")

    @property
    def executor_id(self) -> str:
        """Who sent it."""
        return str(self.resource["service.instance.id"])


class Collector:
    """``endpoint`` is what ``HOLDFAST_OTLP_ENDPOINT`` takes. While ``hanging``, requests get no answer."""

    def __init__(self) -> None:
        self.requests = 0
        self.hanging = threading.Event()
        self._goes_on = threading.Event()
        self._spans: list[Span] = []
        self._lock = threading.Lock()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces", self.path
                collector.requests += 1
                if collector.hanging.is_set():
                    collector._goes_on.wait(60)
                    return
                collector._keep(body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, name="collector", daemon=True).start()

    def close(self) -> None:
        """Ends it, and what hangs."""
        self._goes_on.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def spans(self) -> list[Span]:
        """What came so far."""
        with self._lock:
            return list(self._spans)

    def trace(self, trace: str) -> list[Span]:
        """The spans of one trace."""
        return [span for span in self.spans if span.trace == trace]

    def of(self, *workflow_ids: str, name: str | None = None) -> list[Span]:
        """The spans of these workflows."""
        return [s for s in self.spans if s.workflow_id in workflow_ids and name in (None, s.name)]

    def _keep(self, body: bytes) -> None:
        found = []
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _values(group.resource.attributes)
            for scope in group.scope_spans:
                found += [
                    Span(
                        name=span.name,
                        kind=span.kind,
                        trace=span.trace_id.hex(),
                        id=span.span_id.hex(),
                        parent=span.parent_span_id.hex(),
                        failed=span.status.code == 2,
                        attributes=_values(span.attributes),
                        resource=resource,
                    )
                    for span in scope.spans
                ]
        with self._lock:
            self._spans += found


def _values(attributes: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value") or "string_value") for a in attributes}


@contextmanager
def collector() -> Iterator[Collector]:
    """A collector for a fixture."""
    made = Collector()
    try:
        yield made
    finally:
        made.close()
