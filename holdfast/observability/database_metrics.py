"""Metrics that the API reads from the database for /metrics. Names: docs/operate/metrics.md.

Every statement reads an index, however many finished workflows there are. The database itself keeps the
counters (missed ticks, drains, handovers, fencing, purged workflows in ``ops.totals``, ends of workflows in
``ops.ended``), so they survive both the end of a process and the purge of rows.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from holdfast.statuses import TERMINAL

log = logging.getLogger("holdfast.figures")

Rows = list[dict[str, Any]]

DRAIN_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, math.inf)
"""Upper bounds in seconds, the same as in the view ``ops.countable``."""

_STATES = ("live", "draining")
# Reads take at most a tenth of the time, however large a backlog they have to count.
_SHARE = 10


class DatabaseCollector(Collector):
    """Reports the database's metrics, read at most once per ``max_age_seconds`` however often it is scraped.

    ``read`` runs named statements, each with its parameters, and returns the rows of each. While
    PostgreSQL is away the collector reports ``holdfast_database_up 0`` and nothing else, so that no stale
    value is taken for a fresh one. A tick that has not run ``late_seconds`` after its time never will. An
    executor that has been silent for twice ``lease_seconds`` counts as gone. Every API process reports the
    same values.
    """

    def __init__(
        self,
        read: Callable[[Mapping[str, dict[str, Any]]], dict[str, Rows]],
        *,
        applications: Collection[str],
        late_seconds: float,
        lease_seconds: float,
        max_age_seconds: float = 1.0,
    ) -> None:
        self._read = read
        self._applications = set(applications)
        lease = {"lease_seconds": lease_seconds}
        self._statements: dict[str, dict[str, Any]] = {
            "unfinished_by_status": {},
            "queue_ages": {},
            "orphaned_count": lease,
            "stranded": lease,
            "executors_by_state": lease,
            "protected_applications": {},
            "pulse_health": {"late_seconds": late_seconds},
            "schedule_figures": {},
            "totals": {},
            "ended": {"statuses": list(TERMINAL)},
            "last_purge": {},
        }
        self._max_age_seconds = max_age_seconds
        self._cached: list[Metric] = []
        self._fresh_until = float("-inf")
        self._missed = 0.0
        self._lock = threading.Lock()

    def describe(self) -> Iterable[Metric]:
        """Returns nothing: a description would query the database at registration."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Returns the current metric families."""
        with self._lock:
            begun = time.monotonic()
            if begun >= self._fresh_until:
                self._cached = list(self._families())
                took = time.monotonic() - begun
                self._fresh_until = time.monotonic() + max(self._max_age_seconds, _SHARE * took)
            return self._cached

    def _families(self) -> Iterable[Metric]:
        up = GaugeMetricFamily("holdfast_database_up", "Whether PostgreSQL answered this scrape")
        took = GaugeMetricFamily("holdfast_database_read_seconds", "Time to read the database's figures")
        begun = time.monotonic()
        try:
            rows = self._read(self._statements)
            # An application that was attached stays: no live executor of it is worth a zero.
            self._applications |= {row["name"] for row in rows["protected_applications"]}
            families = [
                *_work(rows),
                self._executors(rows["executors_by_state"]),
                *self._schedules(rows["pulse_health"][0], rows["schedule_figures"]),
                *self._totals(rows["totals"]),
                _ended(rows["ended"]),
                *_retention(rows["last_purge"]),
            ]
            up.add_metric([], 1)
        except Exception as error:
            log.warning(
                "cannot read metrics from the database: %s", error, extra={"action": "metrics.no_database"}
            )
            families = []
            up.add_metric([], 0)
        took.add_metric([], time.monotonic() - begun)
        return [up, took, *families]

    def _executors(self, rows: Rows) -> Metric:
        # Report zero where no executor exists: an alert on "no live worker" needs a value to compare.
        executor_counts = {(name, state): 0 for name in sorted(self._applications) for state in _STATES}
        executor_counts |= {(row["application"], row["state"]): row["executors"] for row in rows}
        family = GaugeMetricFamily(
            "holdfast_executors", "Executors by state", labels=("application", "state")
        )
        for labels, number in executor_counts.items():
            family.add_metric(labels, number)
        return family

    def _schedules(self, pulse: dict[str, Any], rows: Rows) -> Iterable[Metric]:
        # If the database's clock steps back, fewer ticks are settled than before, but a counter must not
        # fall.
        self._missed = max(self._missed, pulse["missed"])
        # The pulse has a row for every tick, so its metrics advance even while no worker updates
        # `ops.schedules`.
        schedules = {row["schedule_name"]: row for row in rows} | {
            "pulse": {
                "skipped": 0,
                "next_tick_seconds": None,
                **next((row for row in rows if row["schedule_name"] == "pulse"), {}),
                "last_tick_age_seconds": pulse["last_tick_age_seconds"],
                "missed": self._missed,
            }
        }
        label = ["schedule"]
        age = GaugeMetricFamily(
            "holdfast_schedule_last_tick_age_seconds", "Age of the last tick", labels=label
        )
        until_next = GaugeMetricFamily(
            "holdfast_schedule_next_tick_seconds",
            "Until the next tick, below 0 where no process has fired it",
            labels=label,
        )
        missed = CounterMetricFamily(
            "holdfast_schedule_missed_ticks", "Ticks that did not run in time", labels=label
        )
        skipped = CounterMetricFamily(
            "holdfast_schedule_skipped_ticks", "Ticks skipped beside an unfinished run", labels=label
        )
        for name, row in schedules.items():
            missed.add_metric([name], row["missed"])
            skipped.add_metric([name], row["skipped"])
            for family, value in ((age, "last_tick_age_seconds"), (until_next, "next_tick_seconds")):
                if row[value] is not None:
                    family.add_metric([name], row[value])
        return [age, until_next, missed, skipped]

    def _totals(self, rows: Rows) -> Iterable[Metric]:
        totals: dict[str, dict[tuple[str, float], float]] = defaultdict(dict)
        for row in rows:
            totals[row["name"]][row["application"], row["le"]] = row["value"]
        handed = CounterMetricFamily("holdfast_handed_over", "Workflows that draining executors handed over")
        handed.add_metric([], totals["handed_over"].get(("", math.inf), 0))
        fenced = CounterMetricFamily(
            "holdfast_fenced",
            "Executors that found themselves declared dead and stopped",
            labels=["application"],
        )
        purged = CounterMetricFamily(
            "holdfast_purged_workflows", "Finished workflows that were deleted", labels=["application"]
        )
        drains = HistogramMetricFamily(
            "holdfast_drain_seconds", "From the request to stop to the last handover", labels=["application"]
        )
        for name in sorted(self._applications):
            fenced.add_metric([name], totals["fenced"].get((name, math.inf), 0))
            purged.add_metric([name], totals["purged"].get((name, math.inf), 0))
            counts = (totals["drains"].get((name, le), 0) for le in DRAIN_BUCKETS)
            limits = ("+Inf" if le == math.inf else str(le) for le in DRAIN_BUCKETS)
            seconds = totals["drain_seconds"].get((name, math.inf), 0)
            drains.add_metric([name], list(zip(limits, accumulate(counts), strict=True)), seconds)
        return [handed, fenced, purged, drains]


def _work(rows: dict[str, Rows]) -> Iterable[Metric]:
    yield _gauge(
        "workflows",
        "Unfinished and parked workflows",
        rows["unfinished_by_status"],
        ("status", "workflow_name", "queue_name"),
        "workflows",
    )
    queues = rows["queue_ages"]
    yield _gauge("queue_depth", "Workflows waiting", queues, ("queue_name",), "depth")
    yield _gauge(
        "queue_oldest_enqueued_age_seconds",
        "Age of the oldest waiting workflow, 0 where none waits",
        queues,
        ("queue_name",),
        "oldest_age_seconds",
    )
    yield _gauge(
        "orphaned_workflows",
        "Running work of no live executor",
        rows["orphaned_count"],
        (),
        "workflows",
    )
    yield _stranded(rows["stranded"])


def _stranded(rows: Rows) -> Metric:
    labels = ("application_version", "status", "reason")
    counts: dict[tuple[str, ...], int] = defaultdict(int)
    for row in rows:
        counts[tuple(str(row[label] or "") for label in labels)] += row["workflows"]
    text = "Unfinished work that no live executor can run, by reason"
    family = GaugeMetricFamily("holdfast_stranded_workflows", text, labels=labels)
    for values, number in counts.items():
        family.add_metric(values, number)
    return family


def _ended(rows: Rows) -> Metric:
    labels = ("workflow_name", "status")
    family = CounterMetricFamily(
        "holdfast_workflows_ended", "Ends of workflows by their stored status", labels=labels
    )
    for row in rows:
        family.add_metric([row[label] for label in labels], row["workflows"])
    return family


def _retention(rows: Rows) -> Iterable[Metric]:
    age = GaugeMetricFamily("holdfast_last_purge_age_seconds", "Since a purge last came to its end")
    if rows[0]["age_seconds"] is not None:
        age.add_metric([], rows[0]["age_seconds"])
    yield age


def _gauge(name: str, text: str, rows: Rows, labels: tuple[str, ...], value: str) -> Metric:
    family = GaugeMetricFamily(f"holdfast_{name}", text, labels=labels)
    for row in rows:
        family.add_metric([str(row[label]) for label in labels], float(row[value] or 0))
    return family
