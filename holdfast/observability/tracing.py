"""Traces over OTLP: one from the HTTP request to the queued step, whoever runs it. Off by default.

FastAPI and DBOS make the spans; here is where they go, and what ties them together. DBOS stores the W3C
trace context with each workflow's row (attribute ``dbos.otelContext``), so it outlives its process:
who takes the workflow over, gets it by a hand over, resumes or forks it goes on in the same trace.
A run that a SIGKILL ends exports no span; the run after it says which attempt it is.

Nothing of OpenTelemetry's SDK is imported before :func:`start`.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from dbos import DBOS, DBOSConfig, PropagateOtelContext

from holdfast.probe_paths import PROBE_PATHS
from holdfast.settings import Settings

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

log = logging.getLogger("holdfast.tracing")

# A killed process loses what it has not sent: the SDK's own delay of 5 s would be most of a batch.
_EXPORT_EVERY_SECONDS = 1.0
_EXPORT_TIMEOUT_SECONDS = 5.0
_COMPLAIN_EVERY_SECONDS = 60.0

_processor: BatchSpanProcessor | None = None
_attempts: dict[str, int] = {}


def on() -> bool:
    """Whether this process exports spans."""
    return _processor is not None


def start(settings: Settings, *, application: str, version: str, executor_id: str) -> None:
    """Exports spans from here on, if a collector is set; once a process, before DBOS is constructed.

    Spans wait in a bounded queue for a thread that sends them: a collector that is slow or away costs
    spans, never time.
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
    # A collector that is away is told about at every try, that is, every second.
    logging.getLogger(trace_exporter.__name__).addFilter(_NowAndThen(_COMPLAIN_EVERY_SECONDS))
    # DBOS warns that it exports no logs; they are on standard output.
    logging.getLogger("dbos").addFilter(lambda record: "logger provider not set" not in str(record.msg))
    log.info("exporting traces to %s", endpoint, extra={"action": "tracing.started"})


def stop(timeout_seconds: float) -> None:
    """Sends what is left, and waits for that at most so long."""
    if _processor is None:
        return
    thread = threading.Thread(target=_processor.shutdown, name="tracing-shutdown", daemon=True)
    thread.start()
    thread.join(timeout_seconds)


def dbos_options() -> DBOSConfig:
    """What DBOS's configuration needs; without it DBOS imports nothing of OpenTelemetry."""
    return {"enable_otlp": True, "otel_attribute_format": "semconv"} if on() else {}


def fastapi_options() -> TelemetryConfig:
    """FastAPI's ``telemetry``: a span for each request but probes and scrapes. Explicit, so that no
    variable of OpenTelemetry's own switches anything on beside our setting.
    """
    return {
        "tracing": on(),
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        "auto_configure": False,
        "exclude": lambda scope: scope["path"] in PROBE_PATHS,
    }


def context() -> Context | None:
    """The caller's trace context, for an enqueue from outside a workflow; None while off."""
    if not on():
        return None
    from opentelemetry.context import get_current

    return get_current()


def propagated() -> AbstractContextManager[object]:
    """Around an enqueue inside a workflow: children go on in its trace, which DBOS does not do by itself."""
    return PropagateOtelContext() if on() else nullcontext()


def attributes() -> dict[str, object] | None:
    """The same for rows that DBOS does not write: what their attributes have to say; None while off."""
    if not on():
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return {"dbos.otelContext": carrier} if carrier else None


def note_claim(workflow_id: str, attempt: int | None) -> None:
    """Keeps the attempt that a claim read with its row for :func:`mark_run`: DBOS does not show it."""
    if on() and attempt is not None:
        _attempts[workflow_id] = attempt


def mark_run() -> None:
    """Puts the attempt on the workflow's span: 1 is the first run, more follow takeovers and hand overs.

    Call inside a workflow, outside its steps.
    """
    if not on():
        return
    from opentelemetry.trace import get_current_span

    attempt = _attempts.pop(str(DBOS.workflow_id), None)
    if attempt is not None:
        get_current_span().set_attribute("holdfast.attempt", attempt)


def ids() -> dict[str, str]:
    """``trace_id`` and ``span_id`` of the caller in hexadecimal, for a log line; empty outside spans."""
    if not on():
        return {}
    from opentelemetry.trace import format_span_id, format_trace_id, get_current_span

    span = get_current_span().get_span_context()
    if not span.is_valid:
        return {}
    return {"trace_id": format_trace_id(span.trace_id), "span_id": format_span_id(span.span_id)}


class _NowAndThen(logging.Filter):
    """Lets one line through in a while, as an event of ours."""

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
