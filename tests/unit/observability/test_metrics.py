"""The metrics of a process: documented, from zero, and none with an id in a label."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from prometheus_client import REGISTRY
from prometheus_client.core import Metric
from prometheus_client.metrics import MetricWrapperBase

from holdfast.installations.embedded import ROOT
from holdfast.observability import database_metrics, metrics
from holdfast.process.registered_work import announce
from services.api.users import metrics as users_metrics
from tests.support import names
from tests.support.sources import source_files

_ROWS: dict[str, list[dict[str, Any]]] = {
    "unfinished_by_status": [
        {"status": "ENQUEUED", "workflow_name": "w", "queue_name": "q", "workflows": 3},
    ],
    "queue_ages": [{"queue_name": "q", "depth": 3, "oldest_age_seconds": 1.5}],
    "orphaned_count": [{"workflows": 0}],
    "stranded": [
        {
            "application_version": "v",
            "status": "PENDING",
            "reason": "queue",
            "queue_name": q,
            "workflows": 1,
        }
        for q in ("q", "r")
    ],
    "protected_applications": [],
    "executors_by_state": [{"application": "worker", "state": "live", "executors": 2}],
    "pulse_health": [{"last_tick_age_seconds": 2.5, "missed": 7}],
    "schedule_figures": [
        {
            "schedule_name": name,
            "last_tick_age_seconds": 60.0,
            "next_tick_seconds": -1.5,
            "missed": 3,
            "skipped": 2,
        }
        for name in ("pulse", "nightly")
    ],
    "totals": [
        {"name": "handed_over", "application": "", "le": math.inf, "value": 5.0},
        {"name": "fenced", "application": "worker", "le": math.inf, "value": 1.0},
        {"name": "drain_seconds", "application": "worker", "le": math.inf, "value": 3.5},
        {"name": "drains", "application": "worker", "le": 0.5, "value": 1.0},
        {"name": "drains", "application": "worker", "le": 5.0, "value": 2.0},
        {"name": "purged", "application": "worker", "le": math.inf, "value": 9.0},
    ],
    "ended": [{"workflow_name": "w", "status": "CANCELLED", "workflows": 4.0}],
    "last_purge": [{"age_seconds": 60.0}],
}


class Reader:
    """Named statements with canned rows; raises while ``down``."""

    def __init__(self) -> None:
        self.rows = {name: [dict(row) for row in rows] for name, rows in _ROWS.items()}
        self.calls: list[dict[str, dict[str, Any]]] = []
        self.down = False
        self.takes: Callable[[], None] = lambda: None

    def __call__(self, statements: Mapping[str, dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
        if self.down:
            raise ConnectionError("no database")
        self.calls.append(dict(statements))
        self.takes()
        return {name: self.rows[name] for name in statements}


def collector(read: Reader, **options: Any) -> database_metrics.DatabaseCollector:
    return database_metrics.DatabaseCollector(
        read, applications=["worker", "api"], late_seconds=65.0, lease_seconds=5.0, **options
    )


def values(families: Iterable[Metric], name: str) -> dict[tuple[str, ...], float]:
    return {
        tuple(sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }


# --- the document -----------------------------------------------------------------------------------


def documented() -> dict[str, tuple[str, set[str]]]:
    found = {}
    for line in (ROOT / "docs" / "operate" / "metrics.md").read_text("utf-8").splitlines():
        if not line.startswith("| `holdfast_"):
            continue
        name, kind, labels, unit, meaning, where = (cell.strip() for cell in line.strip("|").split("|"))
        assert unit and meaning and where, name
        assert name not in found, f"{name} stands twice"
        found[name.strip("`")] = (kind, set(re.findall(r"`(\w+)`", labels)))
    return found


def own() -> list[MetricWrapperBase]:
    kept = {
        id(m): m
        for m in (*vars(metrics).values(), *vars(users_metrics).values())
        if isinstance(m, MetricWrapperBase)
    }
    return list(kept.values())


def reported() -> dict[str, tuple[str, set[str]]]:
    found = {}
    for metric in own():
        (family,) = metric.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = (family.type, set(metric._labelnames))
    for family in collector(Reader()).collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, labels)
    return found


def test_the_document_and_the_registry_agree() -> None:
    assert documented() == reported()


def test_every_metric_of_ours_is_in_the_module_that_the_document_is_held_against() -> None:
    registered = {name for name in REGISTRY._names_to_collectors if name.startswith("holdfast_")}
    known = {name for metric in own() for name in REGISTRY._get_names(metric)}
    assert registered == known


def test_names_have_base_units() -> None:
    for name, (kind, labels) in reported().items():
        assert re.fullmatch(r"holdfast_[a-z_]+", name)
        assert name.endswith("_total") == (kind == "counter"), name
        assert kind != "histogram" or name.endswith("_seconds"), name
        assert not {label for label in labels if label.endswith("_id") or label == "id"}, name


# --- zeros ------------------------------------------------------------------------------------------


def sample(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


@pytest.mark.parametrize("role", ["api", "worker"])
def test_counters_stand_at_zero_from_the_start(role: Any) -> None:
    announce(role)
    mine = [name for name, owner in names.ROLE_OF.items() if owner == role]
    assert mine
    for workflow_name in mine:
        for status in metrics.OUTCOMES:
            labels = {"workflow_name": workflow_name, "status": status}
            assert sample("holdfast_workflows_completed_total", **labels) is not None
            assert sample("holdfast_workflow_duration_seconds_count", **labels) is not None
        assert (
            sample("holdfast_queue_wait_seconds_count", queue_name=names.QUEUE_OF[workflow_name]) is not None
        )
    assert sample("holdfast_queue_wait_seconds_count", queue_name=names.SUSPECTS_QUEUE[role]) is not None
    for step_name in names.STEPS[role]:
        assert sample("holdfast_step_retries_total", step_name=step_name) is not None
    for reason in ("lock lost", "heartbeat late"):
        assert sample("holdfast_takeovers_total", reason=reason) is not None
    for reason in ("lock lost", "heartbeat late", "orphan", "stray"):
        assert sample("holdfast_takeover_workflows_total", reason=reason) is not None


def test_every_step_is_measured_and_known() -> None:
    """Each step's body runs under the name that is stored, and that name is shown from the start."""
    decorated, timed, ours = set(), set(), set()
    for file in source_files():
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called == "DBOS.step":
                decorated |= {
                    k.value.value
                    for k in node.keywords
                    if k.arg == "name" and isinstance(k.value, ast.Constant)
                }
            elif called == "timed_step" and isinstance(node.args[0], ast.Constant):
                timed.add(node.args[0].value)
            elif called == "step" and isinstance(node.args[0], ast.Constant):
                ours.add(node.args[0].value)  # the decorator measures
    assert decorated == timed
    assert decorated | ours == {name for steps in names.STEPS.values() for name in steps}


# --- the database's figures --------------------------------------------------------------------------


def test_what_nobody_runs_is_zero_and_not_missing() -> None:
    found = values(collector(Reader()).collect(), "holdfast_executors")
    assert found == {
        ("api", "live"): 0,
        ("api", "draining"): 0,
        ("worker", "live"): 2,
        ("worker", "draining"): 0,
    }
    assert values(collector(Reader()).collect(), "holdfast_fenced_total") == {("api",): 0, ("worker",): 1}


def test_purges_are_counted() -> None:
    families = list(collector(Reader()).collect())
    assert values(families, "holdfast_purged_workflows_total") == {("api",): 0, ("worker",): 9}
    assert values(families, "holdfast_last_purge_age_seconds") == {(): 60}
    read = Reader()
    read.rows["last_purge"] = [{"age_seconds": None}]
    assert values(collector(read).collect(), "holdfast_last_purge_age_seconds") == {}


def test_ends_are_counted_by_stored_status() -> None:
    families = list(collector(Reader()).collect())
    assert values(families, "holdfast_workflows_ended_total") == {("w", "CANCELLED"): 4}


def test_a_drain_is_a_histogram() -> None:
    families = list(collector(Reader()).collect())
    counts = values(families, "holdfast_drain_seconds_bucket")
    assert [counts["worker", le] for le in ("0.25", "0.5", "2.5", "5.0", "120.0", "+Inf")] == [
        0,
        1,
        1,
        3,
        3,
        3,
    ]
    assert values(families, "holdfast_drain_seconds_count") == {("api",): 0, ("worker",): 3}
    assert values(families, "holdfast_drain_seconds_sum") == {("api",): 0, ("worker",): 3.5}


def test_the_buckets_are_those_of_the_view() -> None:
    text = (ROOT / "holdfast/postgres/sql/migrations/002_totals.sql").read_text("utf-8")
    (limits, _) = re.findall(r"'\{(.*?)\}'::float8\[\]", text)
    assert tuple(float(limit) for limit in limits.split(",")) == database_metrics.DRAIN_BUCKETS


def test_missed_ticks_never_go_down() -> None:
    read = Reader()
    made = collector(read, max_age_seconds=-1e9)
    told = []
    for missed in (7, 9, 8, 0, 10):
        read.rows["pulse_health"][0]["missed"] = missed
        made._fresh_until = 0
        told.append(values(made.collect(), "holdfast_schedule_missed_ticks_total")["pulse",])
    assert told == [7, 9, 9, 9, 10]
    assert read.calls[0]["pulse_health"] == {"late_seconds": 65.0}


def test_every_schedule_has_its_figures() -> None:
    families = list(collector(Reader()).collect())

    def told(name: str) -> dict[tuple[str, ...], float]:
        return values(families, f"holdfast_schedule_{name}")

    assert told("last_tick_age_seconds") == {("pulse",): 2.5, ("nightly",): 60}
    assert told("next_tick_seconds") == {("pulse",): -1.5, ("nightly",): -1.5}
    assert told("missed_ticks_total") == {("pulse",): 7, ("nightly",): 3}
    assert told("skipped_ticks_total") == {("pulse",): 2, ("nightly",): 2}
    read = Reader()
    read.rows["schedule_figures"] = []
    families = list(collector(read).collect())
    assert told("missed_ticks_total") == {("pulse",): 7}
    assert told("next_tick_seconds") == {}


def test_without_a_database_no_old_value_is_reported() -> None:
    read = Reader()
    made = collector(read)
    assert values(made.collect(), "holdfast_database_up") == {(): 1}
    read.down = True
    made._fresh_until = 0
    families = list(made.collect())
    assert {family.name for family in families} == {"holdfast_database_up", "holdfast_database_read_seconds"}
    assert values(families, "holdfast_database_up") == {(): 0}


def test_scrapes_share_one_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(database_metrics.time, "monotonic", lambda: now[0])
    read = Reader()
    made = collector(read)

    def slow() -> None:
        now[0] += 2

    for moment, calls in ((0, 1), (0.9, 1), (1.1, 2)):
        now[0] = 100 + moment
        made.collect()
        assert len(read.calls) == calls
    read.takes = slow
    now[0] = 200.0
    made.collect()
    now[0] += 19
    made.collect()
    assert len(read.calls) == 3, "a slow database is read a tenth of the time"
    now[0] += 2
    made.collect()
    assert len(read.calls) == 4


def test_an_attached_application_is_counted_also_when_none_of_its_processes_lives() -> None:
    read = Reader()
    read.rows["protected_applications"] = [{"name": "shop"}, {"name": "worker"}]
    families = list(collector(read).collect())
    assert values(families, "holdfast_executors")["shop", "live"] == 0
    assert values(families, "holdfast_fenced_total")[("shop",)] == 0
