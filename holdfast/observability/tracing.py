"""Traces over OTLP: one trace from the HTTP request to the queued step, in any process. Off by default.

FastAPI and DBOS create the spans. This module exports them and links them across processes. DBOS stores
the W3C trace context in each workflow's row (attribute ``dbos.otelContext``), so it survives the process:
a takeover, a handover, a resume or a fork continues the same trace. A run that ends by SIGKILL exports no
span; the span of the next run carries the number of its attempt.

OpenTelemetry's SDK is not imported before :func:`start`.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from dbos import DBOS, DBOSConfig, PropagateOtelContext

from holdfast.probe_paths import PROBE_PATHS

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from holdfast.settings import Settings

log = logging.getLogger("holdfast.tracing")

# A killed process loses its unsent spans. The SDK's default delay of 5 s would lose most of a batch.
_EXPORT_EVERY_SECONDS = 1.0
_EXPORT_TIMEOUT_SECONDS = 5.0
_COMPLAIN_EVERY_SECONDS = 60.0

_processor: BatchSpanProcessor | None = None
_attempts: dict[str, int] = {}


def is_enabled() -> bool:
    """Whether this process exports spans."""
    return _processor is not None


def start(settings: Settings, *, application: str, version: str, executor_id: str) -> None:
    """Starts the export of spans if a collector is set. Call once per process, before DBOS is constructed.

    A thread sends the spans from a bounded queue: a slow or missing collector loses spans, but never
    delays work.
    """
    global _processor  # noqa: PLW0603
    if not settings.otlp_endpoint or _processor is not None:
        return
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http import trace_exporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create(
        {"service.name": application, "service.version": version, "service.instance.id": executor_id}
    )
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    endpoint = f"{settings.otlp_endpoint.rstrip('/')}/v1/traces"
    _processor = BatchSpanProcessor(
        trace_exporter.OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_TIMEOUT_SECONDS),
        schedule_delay_millis=_EXPORT_EVERY_SECONDS * 1000,
    )
    provider.add_span_processor(_processor)
    trace.set_tracer_provider(provider)
    # The exporter logs every failed attempt, that is, one line per second while the collector is away.
    logging.getLogger(trace_exporter.__name__).addFilter(_RateLimited(_COMPLAIN_EVERY_SECONDS))
    # DBOS warns that it exports no logs. That is intended: logs go to standard output.
    logging.getLogger("dbos").addFilter(lambda record: "logger provider not set" not in str(record.msg))
    log.info("exporting traces to %s", endpoint, extra={"action": "tracing.started"})


def stop(timeout_seconds: float) -> None:
    """Exports the remaining spans, and waits for that at most `timeout_seconds`."""
    if _processor is None:
        return
    thread = threading.Thread(target=_processor.shutdown, name="tracing-shutdown", daemon=True)
    thread.start()
    thread.join(timeout_seconds)


def dbos_options() -> DBOSConfig:
    """Returns the tracing part of DBOS's configuration. Without it DBOS does not import OpenTelemetry."""
    return {"enable_otlp": True, "otel_attribute_format": "semconv"} if is_enabled() else {}


def fastapi_options() -> TelemetryConfig:
    """Returns FastAPI's ``telemetry``: a span for each request except probes and scrapes.

    Every option is explicit, so that OpenTelemetry's environment variables switch nothing on.
    """
    return {
        "tracing": is_enabled(),
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        "auto_configure": False,
        "exclude": lambda scope: scope["path"] in PROBE_PATHS,
    }


def context() -> Context | None:
    """Returns the caller's trace context, for an enqueue outside workflows; None while off."""
    if not is_enabled():
        return None
    from opentelemetry.context import get_current

    return get_current()


def propagated() -> AbstractContextManager[object]:
    """Context manager for an enqueue inside a workflow: the child joins its trace, which DBOS does not do."""
    return PropagateOtelContext() if is_enabled() else nullcontext()


def attributes() -> dict[str, object] | None:
    """Returns the trace context as attributes of rows that we write in place of DBOS; None while off."""
    if not is_enabled():
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return {"dbos.otelContext": carrier} if carrier else None


def note_claim(workflow_id: str, attempt: int | None) -> None:
    """Stores the attempt number that a claim read, for :func:`mark_run`: DBOS does not expose it."""
    if is_enabled() and attempt is not None:
        _attempts[workflow_id] = attempt


def mark_run() -> None:
    """Sets the attempt on the workflow's span: 1 is the first run, takeovers and handovers raise it.

    Call inside a workflow, outside its steps.
    """
    if not is_enabled():
        return
    from opentelemetry.trace import get_current_span

    attempt = _attempts.pop(str(DBOS.workflow_id), None)
    if attempt is not None:
        get_current_span().set_attribute("holdfast.attempt", attempt)


def ids() -> dict[str, str]:
    """Returns ``trace_id`` and ``span_id`` of the caller in hexadecimal for logs; empty outside spans."""
    if not is_enabled():
        return {}
    from opentelemetry.trace import format_span_id, format_trace_id, get_current_span

    span = get_current_span().get_span_context()
    if not span.is_valid:
        return {}
    return {"trace_id": format_trace_id(span.trace_id), "span_id": format_span_id(span.span_id)}


class _RateLimited(logging.Filter):
    """Passes at most one log line per `every_seconds`, with our own action."""

    def __init__(self, every_seconds: float) -> None:
        super().__init__()
        self._every_seconds = every_seconds
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._every_seconds
        record.action = "tracing.failed"
        return True
