"""Public: what the HTTP routes of an application are built from, and the start of its API.

A feature is a ``Feature`` with a FastAPI router. A route starts work with ``submit(request, Work(...), body,
key)`` and answers with ``answer``; it depends on ``accepting`` and documents ``STARTED``. It reads through
``process_of(request).gateway``. Errors of ``holdfast.errors`` become problem documents (RFC 9457), which
``documented`` describes. Routes for operators depend on ``CONTROL`` and document ``REFUSALS``. A
``BoundedStream`` of ``sse_event`` texts serves server-sent events.
"""

from collections.abc import Sequence
from functools import partial

from holdfast.api.access import CONTROL, REFUSALS
from holdfast.api.app import create_app
from holdfast.api.context import RETRY_SECONDS, Permits, accepting, process_of
from holdfast.api.feature import Feature
from holdfast.api.models import KEY, NAME, Accepted, Finished, IdempotencyKey, StrictRequest, WorkflowId
from holdfast.api.openapi import kind_of
from holdfast.api.problems import documented
from holdfast.api.sse import HEARTBEAT_SECONDS, RECONNECT_MILLISECONDS, BoundedStream, sse_event, woken
from holdfast.api.submit import STARTED, Children, Work, answer, find, submit
from holdfast.api.views import error_text, iso
from holdfast.console.page_data import Pulse
from holdfast.process.process import Process
from holdfast.process.registered_work import RegisteredWork
from holdfast.process.serve import serve

__all__ = [
    "CONTROL",
    "HEARTBEAT_SECONDS",
    "KEY",
    "NAME",
    "RECONNECT_MILLISECONDS",
    "REFUSALS",
    "RETRY_SECONDS",
    "STARTED",
    "Accepted",
    "BoundedStream",
    "Children",
    "Feature",
    "Finished",
    "IdempotencyKey",
    "Permits",
    "Process",
    "Pulse",
    "StrictRequest",
    "Work",
    "WorkflowId",
    "accepting",
    "answer",
    "documented",
    "error_text",
    "find",
    "iso",
    "kind_of",
    "process_of",
    "serve_api",
    "sse_event",
    "submit",
    "woken",
]


def serve_api(application: RegisteredWork, features: Sequence[Feature] = ()) -> None:
    """Runs the API of an application until it is stopped. Exits with the process's exit code."""
    serve(application, partial(create_app, features=features))
