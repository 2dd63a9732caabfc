"""A collector: an HTTP server that receives spans over OTLP and stores them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

SERVER = 2
"""The value of SPAN_KIND_SERVER."""


@dataclass(frozen=True)
class Span:
    """One finished span. Ids are hexadecimal, ``parent`` is empty at the root."""

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
        """The id of the workflow for which DBOS created the span."""
        return self.attributes.get("dbos.operation.workflow_id")

    @property
    def executor_id(self) -> str:
        """The id of the executor that sent the span."""
        return str(self.resource["service.instance.id"])


class Collector:
    """A collector. ``endpoint`` is for ``HOLDFAST_OTLP_ENDPOINT``. While ``hanging``, it does not answer."""

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
        """Stops the collector and its pending requests."""
        self._goes_on.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def spans(self) -> list[Span]:
        """Returns all spans received so far."""
        with self._lock:
            return list(self._spans)

    def trace(self, trace: str) -> list[Span]:
        """Returns the spans of one trace."""
        return [span for span in self.spans if span.trace == trace]

    def of(self, *workflow_ids: str, name: str | None = None) -> list[Span]:
        """Returns the spans of these workflows."""
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
    """Yields a collector for a fixture."""
    made = Collector()
    try:
        yield made
    finally:
        made.close()
