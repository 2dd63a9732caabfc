"""A process claims only workflows that it knows, with arguments that its code takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from statistics import median
from typing import Any

import pytest
from dbos import DBOS, DBOSConfiguredInstance, DBOSPortableJSONSerializer
from dbos._dbos import _get_or_create_dbos_registry

from holdfast.dbos_adapter import registrations
from tests.support.database import Database
from tests.support.engines import Launched, launched

QUEUES: dict[str, dict[str, Any]] = {
    "claimable": {"worker_concurrency": 4},
    "claimable-shared": {"concurrency": 4},
    "claimable-parts": {"partition_concurrency": 1},
}


@DBOS.dbos_class("ClaimableTill")
class _Till(DBOSConfiguredInstance):
    @DBOS.workflow(name="claimable.close")
    def close(self, day: str = "today") -> str:
        """A method of an instance."""
        return f"{self.config_name} {day}"


@DBOS.workflow(name="claimable.add")
def _add(first: int, second: int = 1, *, third: int = 0) -> int:
    """One argument is needed, two may be positional, one may only be named."""
    return first + second + third


@DBOS.workflow(name="claimable.position")
def _position(first: int, /, **more: int) -> int:
    """The name of its first parameter may be the name of another argument."""
    return first + len(more)


@DBOS.workflow(name="claimable.any")
def _any(*args: Any, **kwargs: Any) -> int:
    """Takes everything."""
    return len(args) + len(kwargs)


@pytest.fixture
def it(database: Database) -> Iterator[Launched]:
    """A process with three queues: one claimed by Holdfast's statement, two by DBOS's own."""
    with launched(database) as launched_:
        if "ClaimableTill/claimable-north" not in _get_or_create_dbos_registry().instance_info_map:
            _Till(config_name="claimable-north")
        for name, limits in QUEUES.items():
            DBOS.register_queue(name, **limits, polling_interval_sec=0.2, on_conflict="always_update")
        yield launched_


def store(database: Database, workflow_id: str, name: str, inputs: Any, queue: str, **more: str) -> None:
    """What a newer or an older process has stored."""
    rows = {
        "workflow_uuid": workflow_id,
        "name": name,
        "queue_name": queue,
        "status": "ENQUEUED",
        "application_name": "holdfast-worker",
        "application_version": "worker-1",
        "serialization": "portable_json",
        "priority": 0,
        "recovery_attempts": 0,
        **({"queue_partition_key": workflow_id} if queue == "claimable-parts" else {}),
        **more,
    }
    columns = ", ".join(rows)
    values = ", ".join(f"%({each})s" for each in rows)
    text = inputs if isinstance(inputs, str) else json.dumps(inputs)
    database.rows(
        "INSERT INTO dbos.workflow_input (workflow_uuid, inputs) VALUES (%(i)s, %(t)s)", i=workflow_id, t=text
    )
    database.rows(f"INSERT INTO dbos.workflow_status ({columns}) VALUES ({values})", **rows)


def arguments(*args: Any, **kwargs: Any) -> dict[str, Any]:
    return {"positionalArgs": args, "namedArgs": kwargs}


LEFT = {
    "unknown": ("claimable.newer", arguments(), {}),
    "no-instance": ("claimable.close", arguments(), {"class_name": "ClaimableTill", "config_name": "south"}),
    "no-class": ("claimable.close", arguments(), {"class_name": "ClaimableShop"}),
    "more": ("claimable.add", arguments(1, 2, 3), {}),
    "fewer": ("claimable.add", arguments(), {}),
    "other-name": ("claimable.add", arguments(1, fourth=1), {}),
    "twice": ("claimable.add", arguments(1, first=1), {}),
    "no-position": ("claimable.position", arguments(first=1), {}),
}
RUN = {
    "instance": (
        "claimable.close",
        arguments("yesterday"),
        {"class_name": "ClaimableTill", "config_name": "claimable-north"},
    ),
    "one": ("claimable.add", arguments(1), {}),
    "named": ("claimable.add", arguments(second=1, first=2), {}),
    "only-named": ("claimable.add", arguments(1, 2, third=3), {}),
    "position": ("claimable.position", arguments(1, first=1, second=2), {}),
    "any": ("claimable.any", arguments(1, 2, 3, more="4"), {}),
    "null": ("claimable.any", arguments("\0", "\ud800"), {}),
}


def test_what_this_code_cannot_run_is_left_to_others(it: Launched) -> None:
    for queue in QUEUES:
        for key, (name, inputs, more) in {**LEFT, **RUN}.items():
            store(it.database, f"{queue}-{key}", name, inputs, queue, **more)
    for queue in QUEUES:
        for key in RUN:
            it.wait(f"{queue}-{key}")
    rows = it.database.rows(
        "SELECT workflow_uuid AS id, status, recovery_attempts AS claims FROM dbos.workflow_status"
        " WHERE queue_name LIKE 'claimable%%' AND status <> 'SUCCESS'"
    )
    assert {row["id"] for row in rows if row["status"] != "ENQUEUED"} == set()
    assert {row["id"] for row in rows} == {f"{queue}-{key}" for queue in QUEUES for key in LEFT}
    assert {(row["status"], row["claims"]) for row in rows} == {("ENQUEUED", 0)}


def test_a_workflow_that_is_registered_later_is_claimed_from_then_on(it: Launched) -> None:
    changes: list[None] = []
    it.engine.claimable.on_change = lambda: changes.append(None)
    store(it.database, "later", "claimable.later", arguments(), "claimable")
    store(it.database, "before", "claimable.any", arguments(), "claimable")
    it.wait("before")
    assert it.status("later") == "ENQUEUED"
    DBOS.workflow(name="claimable.later")(lambda: None)
    try:
        it.wait("later")
        assert changes
    finally:
        del _get_or_create_dbos_registry().workflow_info_map["claimable.later"]


def test_what_a_process_publishes_is_what_it_claims_by(it: Launched) -> None:
    published = registrations.registered_workflows()
    assert published["claimable.close"]["takes"] == {"names": ["day"]}
    assert published["claimable.add"]["takes"] == {
        "names": ["first", "second"],
        "needs": ["first"],
        "only_named": ["third"],
    }
    ticks = it.database.rows(
        "SELECT ops.arguments_fit(%(tick)s, %(two)s) AS two, ops.arguments_fit(%(tick)s, %(one)s) AS one,"
        " ops.arguments_fit(%(tick)s, %(tick_only)s) AS tick",
        tick=DBOSPortableJSONSerializer().serialize({"args": (datetime.now(UTC), None), "kwargs": {}}),
        two=json.dumps({"names": ["at", "context"], "needs": ["at"]}),
        one=json.dumps({"names": ["at"]}),
        tick_only=json.dumps({"names": ["at"], "tick": True}),
    )
    assert ticks == [{"two": True, "one": False, "tick": True}]
    taken = json.loads(it.engine.claimable.runnable().takes)
    assert taken == {name: each["takes"] for name, each in published.items() if "takes" in each}


def test_a_client_is_refused_what_no_process_would_claim(it: Launched) -> None:
    published = registrations.registered_workflows()
    for key, (name, inputs, _) in {**LEFT, **RUN}.items():
        takes = published.get(name, {}).get("takes")
        fits = it.database.one(
            "SELECT ops.arguments_fit(%(inputs)s, %(takes)s)",
            inputs=json.dumps(inputs),
            takes=None if takes is None else json.dumps(takes),
        )
        reason = registrations.why_unfit(takes, inputs["positionalArgs"], inputs["namedArgs"])
        assert fits == (reason is None), (key, reason)


@pytest.mark.parametrize(
    "inputs",
    [
        "gASVCg==",
        "{",
        "{}",
        "[]",
        '{"positionalArgs": null, "namedArgs": null}',
        None,
        json.dumps({"positionalArgs": [1, "x" * 100_000], "namedArgs": {}}),
    ],
    ids=["pickle", "broken", "empty", "list", "nulls", "none", "large"],
)
def test_what_cannot_be_read_is_claimed(database: Database, inputs: str | None) -> None:
    fits = 'SELECT ops.arguments_fit(%(inputs)s, \'{"names": ["a"]}\')'
    assert database.one(fits, inputs=inputs)
    assert database.one("SELECT ops.arguments_fit(%(inputs)s, NULL)", inputs=inputs)


@pytest.mark.timing
def test_the_comparison_of_arguments_is_cheap(database: Database) -> None:
    """A claim makes it for each row before the first one that fits, which may be a hundred thousand."""
    inputs = '{"positionalArgs": [1, 2], "namedArgs": {}}'

    def seconds(condition: str) -> float:
        plan = database.rows(
            "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) SELECT FROM (SELECT %(inputs)s || repeat(' ', n) AS i"
            f" FROM generate_series(1, 500) n OFFSET 0) AS s WHERE {condition}",
            inputs=inputs,
        )
        return float(next(iter(plan[0].values()))[0]["Execution Time"])

    fit = 'ops.arguments_fit(i, \'{"names": ["a"], "needs": ["a"]}\')'
    ratios = [seconds(fit) / seconds("i::jsonb IS NULL") for _ in range(9)]
    assert median(ratios) < 6, "fourteen with queries in it, two without"
