"""Metrics of a process, and of the database as the API sees it. Names and labels: docs/operations.md."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

log = logging.getLogger("holdfast.metrics")

Rows = list[dict[str, Any]]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

HTTP_REQUESTS = Counter("holdfast_http_requests_total", "Answered requests", ["method", "route", "status"])
HTTP_SECONDS = Histogram(
    "holdfast_http_request_duration_seconds", "Time to answer", ["method", "route"], buckets=_SECONDS
)
WORKFLOWS_COMPLETED = Counter(
    "holdfast_workflows_completed_total", "Executions that ended here", ["workflow_name", "status"]
)
WORKFLOW_SECONDS = Histogram(
    "holdfast_workflow_duration_seconds", "Execution time here", ["workflow_name"], buckets=_SECONDS
)
STEP_SECONDS = Histogram(
    "holdfast_step_duration_seconds", "Time of a step's body", ["step_name"], buckets=_SECONDS
)
TAKEOVERS = Counter("holdfast_takeovers_total", "Executors whose work this one took over", ["reason"])
TAKEOVER_WORKFLOWS = Counter("holdfast_takeover_workflows_total", "Workflows released by takeovers")
TAKEOVER_DELAY = Histogram(
    "holdfast_takeover_delay_seconds",
    "From the first missing sign of life to the release of the work",
    buckets=(0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2, 5, 6, 10, 30),
)
PARKED = Counter("holdfast_parked_workflows_total", "Workflows parked as poison by this executor")
HANDED_OVER = Counter("holdfast_handed_over_total", "Workflows handed over by this executor's drain")
DRAIN_SECONDS = Gauge("holdfast_drain_seconds", "Time this executor has been draining")
CREDENTIAL_REQUESTS = Counter(
    "holdfast_credential_cache_requests_total", "Uses of the credential cache", ["result"]
)
CREDENTIAL_SECONDS = Histogram(
    "holdfast_credential_fetch_seconds", "Time to fetch a credential", buckets=_SECONDS
)
WORKER_SLOTS = Gauge("holdfast_worker_slots", "Places for CPU work", ["state"])
CPU_POOL = Gauge("holdfast_cpu_pool_processes", "Child processes for CPU work", ["state"])
UP = Gauge("holdfast_executor_ready", "Whether this process is ready for work")


class DatabaseCollector(Collector):
    """The database's own figures, read at most once in ``max_age_seconds`` however often one scrapes.

    ``read`` runs a named statement. With PostgreSQL away it reports ``holdfast_database_up 0`` and
    nothing else, so that no stale figure is taken for a fresh one.
    """

    def __init__(self, read: Callable[[str], Rows], *, max_age_seconds: float = 1.0) -> None:
        self._read = read
        self._max_age_seconds = max_age_seconds
        self._cached: list[Metric] = []
        self._read_at = float("-inf")

    def describe(self) -> Iterable[Metric]:
        """Nothing: describing would query the database at registration."""
        return []

    def collect(self) -> Iterable[Metric]:
        """The current figures as metric families."""
        if time.monotonic() - self._read_at > self._max_age_seconds:
            self._cached = list(self._families())
            self._read_at = time.monotonic()
        return self._cached

    def _families(self) -> Iterable[Metric]:
        up = GaugeMetricFamily("holdfast_database_up", "Whether PostgreSQL answered this scrape")
        try:
            families = [
                self._gauge(
                    "workflows",
                    "Unfinished and parked workflows",
                    "unfinished_by_status",
                    ("status", "workflow_name", "queue_name"),
                    "workflows",
                ),
                self._gauge("queue_depth", "Workflows waiting", "queue_ages", ("queue_name",), "depth"),
                self._gauge(
                    "queue_oldest_enqueued_age_seconds",
                    "Age of the oldest waiting workflow",
                    "queue_ages",
                    ("queue_name",),
                    "oldest_age_seconds",
                ),
                self._gauge(
                    "executors",
                    "Executors by state",
                    "executors_by_state",
                    ("application", "state"),
                    "executors",
                ),
                self._gauge(
                    "orphaned_workflows",
                    "Running work of no live executor",
                    "orphaned_count",
                    (),
                    "workflows",
                ),
                self._gauge(
                    "stranded_workflows",
                    "Unfinished work of versions that nobody runs",
                    "stranded",
                    ("application_version", "status"),
                    "workflows",
                ),
                *self._pulse(),
            ]
            up.add_metric([], 1)
        except Exception as error:
            log.warning("no figures from the database: %s", error, extra={"action": "metrics.no_database"})
            families = []
            up.add_metric([], 0)
        return [up, *families]

    def _gauge(self, name: str, text: str, statement: str, labels: tuple[str, ...], value: str) -> Metric:
        family = GaugeMetricFamily(f"holdfast_{name}", text, labels=labels)
        for row in self._read(statement):
            family.add_metric([str(row[label]) for label in labels], float(row[value] or 0))
        return family

    def _pulse(self) -> Iterable[Metric]:
        row = self._read("pulse_health")[0]
        age = GaugeMetricFamily("holdfast_schedule_last_tick_age_seconds", "Age of the last pulse")
        if row["last_tick_age_seconds"] is not None:
            age.add_metric([], row["last_tick_age_seconds"])
        missed = CounterMetricFamily("holdfast_schedule_missed_ticks", "Pulses that never ran")
        missed.add_metric([], max(0, row["missed"]))
        return [age, missed]
