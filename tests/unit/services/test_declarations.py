"""Durable names, queues, steps, schedules and labels of the showcase, pinned: stored work depends on them."""

from __future__ import annotations

import json
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from dbos import DBOS

from holdfast.console.labels import label, needs_input
from holdfast.dbos_adapter import definitions
from holdfast.process import registered_work
from services.api.scope import workflows as scope
from services.composition import Api, Worker
from services.settings import ShowcaseSettings
from tests.support import names
from tests.support.own import forgotten

# By workflow: its queue, its role, and its label without and with an instance's name and an input.
WORKFLOWS = {
    "ClassScope.run": ("scope", "api", "scope: class", "scope: class", "scope: class, 7 steps"),
    "InstanceScope.run": ("scope", "api", "scope: instance", "scope: instance alpha", "scope: instance"),
    "scope.function": ("scope", "api", "scope: function", "scope: function", "scope: function, 7 steps"),
    "users.process": ("users", "api", "users", "users", "users: 7 pages of 2"),
    "users.page": ("user-pages", "api", "users: page", "users: page", "users: page 7"),
    "nesting.root": ("nested-roots", "api", "nested: root", "nested: root", "nested: root"),
    "nesting.child": ("nested-children", "api", "nested: child", "nested: child", "nested: child"),
    "nesting.grandchild": ("nested-grandchildren", "api", *["nested: grandchild"] * 3),
    "fibonacci.batch": ("fibonacci-batches", "worker", "batch", "batch", "batch"),
    "fibonacci.sequence": ("fibonacci-sequences", "worker", *["batch, in turn"] * 3),
    "fibonacci.number": ("fibonacci", "worker", "fibonacci.number", "fibonacci.number", "fib(7)"),
    "pulse.tick": ("pulses", "worker", "pulse", "pulse", "pulse"),
    "retention.purge": ("purges", "worker", "purge", "purge", "purge"),
    "retention.tick": ("purges", "worker", "purge", "purge", "purge"),
    "buckets.listing": ("bucket-listings", "worker", "listing", "listing", "listing"),
    "buckets.page": ("bucket-pages", "worker", "listing: page", "listing: page", "listing: page 7"),
    "chaos.poison": ("fibonacci", "worker", "poison", "poison", "poison"),
}
WITH_INPUT = {
    "ClassScope.run",
    "scope.function",
    "users.process",
    "users.page",
    "fibonacci.number",
    "buckets.page",
}
STEPS = {
    "api": [
        "nesting.touch",
        "scope.class.step",
        "scope.function.step",
        "scope.instance.step",
        "users.process_one",
    ],
    "worker": [
        "buckets.collect",
        "buckets.cut",
        "buckets.enqueue",
        "buckets.read",
        "chaos.kill_process",
        "fibonacci.collect",
        "fibonacci.compute",
        "fibonacci.enqueue",
        "pulse.record",
        "retention.begin",
        "retention.end",
        "retention.tidy",
        "retention.workflows",
    ],
}
LEAF_QUEUES = {
    "scope",
    "user-pages",
    "nested-grandchildren",
    "fibonacci",
    "fibonacci-sequences",
    "pulses",
    "purges",
    "bucket-pages",
}
# The limits that each role's queues are registered with.
ONE, MANY = {"worker_concurrency": 1}, {"worker_concurrency": 32}
QUEUES: dict[str, dict[str, dict[str, Any]]] = {
    "api": {
        "scope": MANY,
        "users": MANY,
        "user-pages": MANY,
        "nested-roots": MANY,
        "nested-children": MANY,
        "nested-grandchildren": MANY,
        "api-suspects": ONE,
        "api-trials": ONE,
    },
    "worker": {
        "fibonacci-batches": MANY,
        "fibonacci": {"worker_concurrency": 6},
        "fibonacci-sequences": {"worker_concurrency": 6},
        "pulses": {"worker_concurrency": 4},
        "purges": ONE,
        "bucket-listings": MANY,
        "bucket-pages": {"global_concurrency": 10, "limiter": {"limit": 50, "period": 10}},
        "worker-suspects": ONE,
        "worker-trials": ONE,
    },
}
SCHEDULES = {
    "pulse": ("pulse.tick", "*/5 * * * * *", "pulses", None),
    "purge": ("retention.tick", "0 17 * * * *", "purges", None),
}


def test_every_workflow_keeps_its_name_queue_role_and_label() -> None:
    stored = '{"positionalArgs": [7, 2], "namedArgs": {}}'
    with forgotten():
        assert {
            name: (queue, names.ROLE_OF[name], label(name), label(name, "alpha"), label(name, None, stored))
            for name, queue in names.QUEUE_OF.items()
        } == WORKFLOWS
    assert {name for name in WORKFLOWS if needs_input(name)} == WITH_INPUT


def test_every_step_and_leaf_queue_keeps_its_name() -> None:
    assert {role: sorted(steps) for role, steps in names.STEPS.items()} == STEPS
    with forgotten():
        assert Api().leaf_queues == Worker().leaf_queues == LEAF_QUEUES


class Registered:
    """What an application registers with DBOS, without one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queues: dict[str, dict[str, Any]] = {}
        self.schedules: dict[str, tuple[Any, ...]] = {}
        self.rules: dict[str, tuple[Any, ...]] = {}
        self.states: dict[str, str] = {}
        monkeypatch.setattr(DBOS, "register_queue", self._queue)
        monkeypatch.setattr(DBOS, "apply_schedules", self._apply)
        monkeypatch.setattr(DBOS, "list_schedules", lambda **_: [])
        monkeypatch.setattr(DBOS, "pause_schedule", lambda name: self.states.update({name: "paused"}))
        monkeypatch.setattr(DBOS, "resume_schedule", lambda name: self.states.update({name: "active"}))
        ops = SimpleNamespace(run=self._run, run_patiently=self._run, connection=lambda: nullcontext(None))
        monkeypatch.setattr(definitions, "transaction", nullcontext)
        monkeypatch.setattr(
            definitions, "query", lambda _, statement, /, **params: self._run(statement, **params)
        )
        monkeypatch.setattr(registered_work, "resources", lambda: SimpleNamespace(ops=ops, executor_id="it"))

    def _queue(self, name: str, *, polling_interval_sec: float, on_conflict: str, **limits: Any) -> None:
        assert (polling_interval_sec, on_conflict) == (3.0, "always_update")
        assert name not in self.queues
        self.queues[name] = {key: limit for key, limit in limits.items() if limit is not None}

    def _apply(self, schedules: list[dict[str, Any]]) -> None:
        for each in schedules:
            assert (each["context"], each["automatic_backfill"]) == (None, False)
            function = each["workflow_fn"].dbos_function_name
            columns = (function, each["schedule"], each["queue_name"], each["cron_timezone"])
            self.schedules[each["schedule_name"]] = columns

    def _run(self, statement: str, /, **params: Any) -> list[dict[str, Any]]:
        if statement == "set_schedule_rules":
            rules = (params["overlap"], params["catch_up"], params["catch_up_seconds"])
            self.rules[params["schedule"]] = rules
        if statement == "try_definitions_lock":
            return [{"held": True}]
        if statement != "newest_definitions":
            return []
        own = json.loads(params["definitions"])
        return [
            {"kind": kind, "name": name, "definition": json.dumps(definition), "applies": False}
            for kind, named in own.items()
            for name, definition in named.items()
        ]


@pytest.mark.parametrize("retention", [0.0, 86_400.0])
@pytest.mark.parametrize("catch_up", [0.0, 60.0])
def test_queues_and_schedules_are_registered_as_ever(
    monkeypatch: pytest.MonkeyPatch, retention: float, catch_up: float
) -> None:
    settings = ShowcaseSettings(
        fibonacci_worker_concurrency=6, retention_seconds=retention, pulse_catch_up_seconds=catch_up
    )
    monkeypatch.setattr(scope, "build_instances", lambda: None)  # once in a process
    listened: list[list[str]] = []
    monkeypatch.setattr(DBOS, "listen_queues", listened.append)
    for each in (Api(), Worker()):
        registered = Registered(monkeypatch)
        with forgotten():
            each.prepare(settings)
            each.register(settings)
        each.close()
        assert registered.queues == QUEUES[each.role]
        assert listened.pop() == sorted(QUEUES[each.role])
        if each.role == "api":
            assert (registered.schedules, registered.rules, registered.states) == ({}, {}, {})
            continue
        assert registered.schedules == SCHEDULES
        pulse = ("allow", "all", catch_up) if catch_up else ("allow", "none", None)
        assert registered.rules == {"pulse": pulse, "purge": ("allow", "none", None)}
        assert registered.states.pop("purge") == ("active" if retention else "paused")
        assert registered.states == {}, "what an operator paused stays paused"
