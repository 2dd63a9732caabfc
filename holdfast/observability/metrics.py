"""Metrics of this process. Every name, with labels, unit and meaning: docs/operate/metrics.md.

Some counts are known only at the end of a process (drains, handovers, fencing), too late for a scrape of
that process. The database keeps those, and ``database_metrics`` reports them.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from holdfast import __version__

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge, Histogram

    from holdfast.identity import Identity

AVAILABLE = find_spec("prometheus_client") is not None
"""Whether metrics are kept. An attached application may lack ``prometheus_client``."""

if AVAILABLE:
    from prometheus_client import Counter, Gauge, Histogram
elif not TYPE_CHECKING:

    class Counter:
        """Keeps nothing."""

        def __init__(self, *_: object, **__: object) -> None:
            pass

        def labels(self, *_: object, **__: object) -> Counter:
            """Returns a metric that keeps nothing."""
            return self

        def clear(self) -> None:
            """Does nothing."""

        inc = set = observe = set_function = __init__

    Gauge = Histogram = Counter

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_WAIT_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)

OUTCOMES = ("SUCCESS", "ERROR", "CANCELLED", "LEFT")
"""How an execution ended: by the status that is stored, or LEFT, which is no outcome: the workflow continues
elsewhere. A parked workflow has no execution that ends: ``database_metrics`` counts it.
"""
STEP_OUTCOMES = ("SUCCESS", "ERROR", "LEFT")
"""How an attempt at a step ended. LEFT: its workflow was cancelled, or another process continues it."""
TAKEOVER_REASONS = ("lock lost", "hung", "heartbeat late")
"""Why an executor was declared dead."""
RELEASE_REASONS = (*TAKEOVER_REASONS, "orphan", "stray")
"""Reasons to release work. "orphan": no live executor owns it; "stray": its executor never started it."""

BUILD = Gauge(
    "holdfast_build_info",
    "What runs here; always 1",
    ["application", "application_version", "release", "role"],
)
READY = Gauge("holdfast_executor_ready", "Whether this process should get work")
CLOCK_DIFFERENCE = Gauge(
    "holdfast_clock_difference_seconds", "Local clock minus the database's, at the last heartbeat"
)
HEARTBEAT_AGE = Gauge("holdfast_heartbeat_age_seconds", "Since the last heartbeat that went through")
RUNNING = Gauge("holdfast_workflows_running", "Workflows that run here")
ABANDONED_THREADS = Gauge(
    "holdfast_abandoned_threads", "Cancelled workflows whose slot is free and whose code still runs here"
)
DRAINING_SECONDS = Gauge(
    "holdfast_draining_seconds", "How long this executor has been draining, 0 if it is not"
)

WORKFLOWS_COMPLETED = Counter(
    "holdfast_workflows_completed_total", "Executions that ended here", ["workflow_name", "status"]
)
WORKFLOW_SECONDS = Histogram(
    "holdfast_workflow_duration_seconds",
    "Execution time here",
    ["workflow_name", "status"],
    buckets=SECONDS,
)
STEP_SECONDS = Histogram(
    "holdfast_step_duration_seconds", "Time of a step's body", ["step_name", "status"], buckets=SECONDS
)
STEP_RETRIES = Counter("holdfast_step_retries_total", "Further attempts at a step that failed", ["step_name"])
QUEUE_WAIT = Histogram(
    "holdfast_queue_wait_seconds",
    "From enqueued to first claimed, of what this executor claimed",
    ["queue_name"],
    buckets=_WAIT_SECONDS,
)

TAKEOVERS = Counter("holdfast_takeovers_total", "Executors that this one declared dead", ["reason"])
TAKEOVER_WORKFLOWS = Counter(
    "holdfast_takeover_workflows_total", "Workflows that this executor took from others", ["reason"]
)
TAKEOVER_DELAY = Histogram(
    "holdfast_takeover_delay_seconds",
    "From the first missing sign of life to the release of the work",
    buckets=(0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2, 5, 6, 10, 30),
)
PARKED = Counter("holdfast_parked_workflows_total", "Workflows parked as poison by this executor")

HTTP_REQUESTS = Counter("holdfast_http_requests_total", "Answered requests", ["method", "route", "status"])
HTTP_SECONDS = Histogram(
    "holdfast_http_request_duration_seconds", "Time to answer", ["method", "route"], buckets=SECONDS
)

WORKER_SLOTS = Gauge("holdfast_worker_slots", "Slots for CPU work", ["state"])
CPU_POOL = Gauge("holdfast_cpu_pool_processes", "Child processes for CPU work", ["state"])


def set_build(identity: Identity) -> None:
    """Sets the build metric from the identity of this process."""
    BUILD.clear()
    BUILD.labels(identity.application, identity.version, __version__, identity.role).set(1)


def announce(*, workflows: Iterable[str] = (), steps: Iterable[str] = (), queues: Iterable[str] = ()) -> None:
    """Creates every series of this process at zero, so that a rate includes the first event."""
    for reason in TAKEOVER_REASONS:
        TAKEOVERS.labels(reason=reason)
    for reason in RELEASE_REASONS:
        TAKEOVER_WORKFLOWS.labels(reason=reason)
    for workflow_name in workflows:
        for status in OUTCOMES:
            WORKFLOWS_COMPLETED.labels(workflow_name=workflow_name, status=status)
            WORKFLOW_SECONDS.labels(workflow_name=workflow_name, status=status)
    for step_name in steps:
        STEP_RETRIES.labels(step_name=step_name)
        for status in STEP_OUTCOMES:
            STEP_SECONDS.labels(step_name=step_name, status=status)
    for queue_name in queues:
        QUEUE_WAIT.labels(queue_name=queue_name)
