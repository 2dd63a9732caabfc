"""A process, a gateway and DBOS's client without PostgreSQL, for the tests of the HTTP layer."""

from __future__ import annotations

import asyncio
import atexit
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dbos import WorkflowStatus
from dbos._context import take_assigned_workflow_id

from holdfast.api.models import Workflow
from holdfast.control.operations import Requested
from holdfast.dbos_adapter import values
from holdfast.dbos_adapter.serializer import error_data
from holdfast.dbos_adapter.wake_ups import Waker
from holdfast.errors import DatabaseUnavailable
from holdfast.postgres.statements import sql
from services.settings import ShowcaseSettings

API, WORKER = "holdfast-api", "holdfast-worker"


TOKEN = "admin-token-of-the-tests"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
_token_file = Path(tempfile.mkdtemp(prefix="holdfast-unit-")) / "admin_token"
_token_file.write_text(TOKEN + "\n", "ascii")
atexit.register(shutil.rmtree, _token_file.parent, ignore_errors=True)


class FakeSettings(ShowcaseSettings):
    """Settings that need no dbos-config.yaml, with an admin token."""

    admin_token_file: Path | None = _token_file
    allowed_hosts: str = "testserver,test"

    @property
    def _dbos_config(self) -> dict[str, Any]:
        return {"name": "holdfast", "system_database_url": "postgresql://nowhere/x"}


class FakeClient:
    """Keeps workflows in a dict; refuses what would strand a row in the real one."""

    def __init__(self) -> None:
        self.rows: dict[str, WorkflowStatus] = {}
        self.steps: dict[str, list[dict[str, Any]]] = {}
        self.enqueued: list[dict[str, Any]] = []
        self.forked: list[dict[str, Any]] = []
        self.loads: list[tuple[bool, bool]] = []
        self.messages: dict[str, tuple[str, Any, str | None]] = {}

    def enqueue(self, options: dict[str, Any], *args: Any) -> Any:
        workflow_id = options["workflow_id"]
        if workflow_id not in self.rows:
            self.enqueued.append({**options, "args": args})
            self.add(
                workflow_id,
                name=options["workflow_name"],
                queue_name=options["queue_name"],
                application_name=options["application_name"],
                input={"args": args, "kwargs": {}},
            )
        return type("Handle", (), {"workflow_id": workflow_id})()

    def add(self, workflow_id: str, **columns: Any) -> WorkflowStatus:
        row = WorkflowStatus()
        nothing = dict.fromkeys(WorkflowStatus.__annotations__)
        now = int(time.time() * 1000) + len(self.rows)
        defaults = {"status": "ENQUEUED", "name": "x.y", "application_name": WORKER, "created_at": now}
        row.__dict__.update({**nothing, **defaults, "workflow_id": workflow_id, **columns})
        self.rows[workflow_id] = row
        return row

    def list_workflows(
        self,
        *,
        workflow_ids: list[str] | None = None,
        parent_workflow_id: str | list[str] | None = None,
        load_input: bool,
        load_output: bool,
        limit: int | None = None,
        offset: int | None = None,
        sort_desc: bool = False,
        **filters: Any,
    ) -> list[WorkflowStatus]:
        self.loads.append((load_input, load_output))
        wanted = {name: value for name, value in filters.items() if value}
        parents = [parent_workflow_id] if isinstance(parent_workflow_id, str) else parent_workflow_id
        rows = [
            row
            for row in sorted(self.rows.values(), key=lambda row: row.created_at or 0, reverse=sort_desc)
            if (workflow_ids is None or row.workflow_id in workflow_ids)
            and (parents is None or row.parent_workflow_id in parents)
            and all(getattr(row, name) in value for name, value in wanted.items())
        ]
        shown = rows[offset or 0 :][:limit]
        copies = []
        for row in shown:
            copy = WorkflowStatus()
            copy.__dict__.update(row.__dict__)
            if not load_input:
                copy.input = None
            if not load_output:
                copy.output = copy.error = None
            copies.append(copy)
        return copies

    def list_workflow_steps(
        self,
        workflow_id: str,
        *,
        load_output: bool = True,
        limit: int | None = None,
        offset: int | None = None,
    ) -> list[dict[str, Any]]:
        return self.steps.get(workflow_id, [])[offset or 0 :][:limit]

    def send(self, destination_id: str, message: Any, topic: str | None, idempotency_key: str) -> None:
        name = f"{idempotency_key}::{destination_id}"
        self.messages.setdefault(name, (destination_id, message, topic))

    def fork_workflow(
        self, workflow_id: str, start_step: int, *, application_version: str, queue_name: str
    ) -> None:
        assigned = take_assigned_workflow_id()
        assert assigned is not None, "the fork's id must be the one that the key stands for"
        self.add(assigned.workflow_id, name=self.rows[workflow_id].name, forked_from=workflow_id)
        self.forked.append(
            {
                "id": assigned.workflow_id,
                "step": start_step,
                "version": application_version,
                "queue": queue_name,
            }
        )


class FakePool:
    """Lends a connection, itself its cursor, that finds the workflow that a fork keeps, and nothing else."""

    closed = False

    def __init__(self) -> None:
        self.description: Any = None
        self._found: list[dict[str, Any]] = []

    @contextmanager
    def connection(self) -> Iterator[FakePool]:
        yield FakePool()

    @contextmanager
    def cursor(self) -> Iterator[FakePool]:
        yield self

    def execute(self, statement: str, params: dict[str, Any] | None = None) -> None:
        keeps = params is not None and statement == sql("keep_for_fork")
        self.description = statement
        self._found = [{"workflow_id": params["workflow_id"]}] if params and keeps else []

    def fetchall(self) -> list[dict[str, Any]]:
        return self._found


class FakeGateway:
    """Runs calls at once, or fails as the real one does while `down` or `broken` is set."""

    def __init__(self) -> None:
        self.client = FakeClient()
        self.pool = FakePool()
        self.children: list[dict[str, Any] | None] = []
        self.requests: dict[str, dict[str, Any]] = {}
        self.executors: list[dict[str, Any]] = []
        self.pulses: list[dict[str, Any]] = []
        self.waits: dict[str, dict[str, Any]] = {}
        self.events: dict[str, str] = {}
        self.streams: dict[str, list[str]] = {}
        self.orders: list[tuple[str, str]] = []
        self.pickled: dict[str, dict[str, int]] = {}
        self.queues: dict[str, str] = {}
        self.registered: dict[str, tuple[str, dict[str, Any]]] = {}
        self.down = False
        self.broken: Exception | None = None
        self.operations: dict[str, dict[str, Any]] = {}

    def enqueue(
        self,
        options: dict[str, Any],
        args: tuple[Any, ...],
        children: dict[str, Any] | None,
        *,
        kwargs: dict[str, Any] | None = None,
        as_pickle: bool = False,
    ) -> None:
        self.client.enqueue(options, *args)
        if self.client.enqueued and options["workflow_id"] == self.client.enqueued[-1]["workflow_id"]:
            self.client.enqueued[-1] |= {"kwargs": kwargs, "as_pickle": as_pickle}
        self.children.append(children)

    async def call(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        if self.down:
            raise DatabaseUnavailable
        if self.broken is not None:
            raise self.broken
        return await asyncio.to_thread(function, *args, **kwargs)

    async def ops(self, statement: str, /, **params: Any) -> list[dict[str, Any]]:
        return list(await self.call(getattr(self, f"_{statement}"), **params))

    def _claim_request(self, *, key: str, fingerprint: str, workflow_id: str) -> list[dict[str, Any]]:
        row = {"fingerprint": fingerprint, "workflow_id": workflow_id}
        return [self.requests.setdefault(key, row)]

    def _backlog(self, *, limit: int) -> list[dict[str, Any]]:
        unfinished = [row for row in self.client.rows.values() if row.status in ("ENQUEUED", "PENDING")]
        return [{"unfinished": min(limit, len(unfinished))}]

    def _stored_request(self, *, key: str) -> list[dict[str, Any]]:
        row = self.requests.get(key)
        return [row] if row and row["workflow_id"] in self.client.rows else []

    def _list_workflows(
        self, *, limit: int, offset: int, prefix: str | None, **filters: Any
    ) -> list[dict[str, Any]]:
        at, before = filters.pop("before_ms"), filters.pop("before_id")
        columns_of = {"queue": "queue_name", "application": "application_name"}
        wanted = {columns_of.get(name, name): value for name, value in filters.items() if value}
        rows = sorted(
            self.client.rows.values(), key=lambda row: (row.created_at, row.workflow_id), reverse=True
        )
        found = [
            row
            for row in rows
            if all(getattr(row, name) in value for name, value in wanted.items())
            and row.workflow_id.startswith(prefix or "")
            and (at is None or (row.created_at, row.workflow_id) < (at, before))
        ]
        return [
            {**_listed(row), **{f"wait_{name}": value for name, value in self._wait(row).items()}}
            for row in found[offset : offset + limit]
        ]

    def _wait(self, row: WorkflowStatus) -> dict[str, Any]:
        nothing: dict[str, Any] = dict.fromkeys(("kind", "subject", "since", "until"))
        return self.waits.get(row.workflow_id, nothing)

    def _message_target(self, *, workflow_id: str, message_uuid: str) -> list[dict[str, Any]]:
        row = self.client.rows.get(workflow_id)
        return [{"status": row.status, "sent": message_uuid in self.client.messages}] if row else []

    def _workflow_events(
        self, *, workflow_id: str, after: str | None, limit: int, value_bytes: int
    ) -> list[dict[str, Any]]:
        rows = [
            stored(value, value_bytes, key=key)
            for key, value in sorted(self.events.items())
            if key > (after or "")
        ]
        return self._of(workflow_id, rows[:limit], "key")

    def _workflow_streams(
        self, *, workflow_id: str, after: str | None, limit: int, closed: str
    ) -> list[dict[str, Any]]:
        rows = [
            {"key": key, "last": len(values) - 1, "closed": values[-1] == closed}
            for key, values in sorted(self.streams.items())
            if key > (after or "")
        ]
        return self._of(workflow_id, rows[:limit], "key")

    def _stream_values(
        self, *, workflow_id: str, key: str, offset: int, limit: int, value_bytes: int, budget: int
    ) -> list[dict[str, Any]]:
        found = self.streams.get(key, [])
        rows = [stored(text, value_bytes, offset=at) for at, text in enumerate(found) if at >= offset][:limit]
        status = self.client.rows[workflow_id].status if workflow_id in self.client.rows else None
        return [{**row, "status": status} for row in self._of(workflow_id, rows, "offset")]

    def _of(self, workflow_id: str, rows: list[dict[str, Any]], column: str) -> list[dict[str, Any]]:
        """One row without a value for a workflow that has none."""
        return (rows or [{column: None}]) if workflow_id in self.client.rows else []

    def _list_executors(self, *, application: list[str] | None) -> list[dict[str, Any]]:
        return [row for row in self.executors if application is None or row["application"] in application]

    def _workflow_detail(self, *, workflow_id: str, value_bytes: int, json: str) -> list[dict[str, Any]]:
        row = self.client.rows.get(workflow_id)
        if row is None:
            return []
        given = row.input
        if isinstance(given, dict):
            given = {"positionalArgs": list(given["args"]), "namedArgs": given["kwargs"]}
        sizes = self.pickled.get(workflow_id)
        return [
            {
                **_listed(row),
                **{f"wait_{name}": value for name, value in self._wait(row).items()},
                "serialization": json if sizes is None else "py_pickle",
                **_texts({"input": given, "output": row.output, "error": row.error}, value_bytes),
                **{f"{name}_bytes": size for name, size in (sizes or {}).items()},
            }
        ]

    def _workflow_steps(
        self, *, workflow_id: str, limit: int, offset: int, value_bytes: int, json: str
    ) -> list[dict[str, Any]]:
        rows = [
            {
                "step_id": row["function_id"],
                "name": row["function_name"],
                "child_workflow_id": row["child_workflow_id"],
                "started_at": row["started_at_epoch_ms"],
                "completed_at": row["completed_at_epoch_ms"],
                "serialization": row.get("serialization", json),
                **_texts({"output": row["output"], "error": row["error"]}, value_bytes),
            }
            for row in self.client.steps.get(workflow_id, [])[offset : offset + limit]
        ]
        return self._of(workflow_id, rows, "step_id")

    def _home_queues(self, *, workflow_ids: list[str]) -> list[dict[str, Any]]:
        rows = (self.client.rows[workflow_id] for workflow_id in workflow_ids)
        return [
            {"workflow_id": row.workflow_id, "queue_name": self.queues.get(row.workflow_id, row.queue_name)}
            for row in rows
        ]

    def _live_version(
        self, *, application: str, prefer: str | None, lease_seconds: float
    ) -> list[dict[str, Any]]:
        versions = [
            row["application_version"]
            for row in self.executors
            if row["application"] == application and row["state"] == "live"
        ]
        return [{"version": prefer if prefer in versions else versions[0]}] if versions else []

    def _find_registered(self, *, name: str, application: str | None, **_: Any) -> list[dict[str, Any]]:
        return [
            {
                "application": known,
                "version": f"{known}-7",
                "serializer": serializer,
                "workflow": workflows[name],
            }
            for known, (serializer, workflows) in sorted(self.registered.items())
            if name in workflows and application in (None, known)
        ]

    def _registered_names(self, *, application: str | None) -> list[dict[str, Any]]:
        shown = [
            workflows for known, (_, workflows) in self.registered.items() if application in (None, known)
        ]
        return [{"name": name} for workflows in shown for name in workflows]

    def _queues_of(self, *, application: str) -> list[dict[str, Any]]:
        return [
            {"name": f"{application}-partitions", "is_partitioned": True},
            {"name": f"{application}-queue", "is_partitioned": False},
        ]

    def _known_applications(self) -> list[dict[str, Any]]:
        return [{"application": name} for name in sorted({row["application"] for row in self.executors})]

    def _order(self, kind: str, executor_id: str) -> list[dict[str, Any]]:
        self.orders.append((kind, executor_id))
        alive = [row for row in self.executors if row["state"] in ("live", "draining")]
        return [row for row in alive if row["executor_id"] == executor_id]

    def _request_drain(self, *, executor_id: str) -> list[dict[str, Any]]:
        return self._order("drain", executor_id)

    def _request_crash(self, *, executor_id: str) -> list[dict[str, Any]]:
        return self._order("crash", executor_id)

    def _listing_progress(self, *, workflow_id: str) -> list[dict[str, Any]]:
        return [{"pages": 4, "completed": 2, "keys": 20, "bytes": 200}]

    def _operation(self, *, operation_id: str) -> list[dict[str, Any]]:
        return [self.operations[operation_id]] if operation_id in self.operations else []

    def _operations(self, *, limit: int) -> list[dict[str, Any]]:
        return list(self.operations.values())[:limit]

    def _recent_pulses(self, *, limit: int) -> list[dict[str, Any]]:
        return self.pulses[:limit]

    def _schedules(self) -> list[dict[str, Any]]:
        return []


_RENAMED = {
    "instance_name": "config_name",
    "application": "application_name",
    "application_version": "app_version",
    "attempts": "recovery_attempts",
    "started_at": "dequeued_at",
}


def _listed(row: WorkflowStatus) -> dict[str, Any]:
    columns = [name for name in Workflow.model_fields if name != "waiting"]
    return {
        **{name: getattr(row, _RENAMED.get(name, name)) for name in columns},
        "delay_until": row.delay_until_epoch_ms,
    }


def _texts(found: dict[str, Any], limit: int) -> dict[str, Any]:
    """Values as they are stored; a text that stands for a value that cannot be read is stored as it is."""
    texts: dict[str, Any] = {}
    for name, value in found.items():
        text = None if value is None else values.dump(error_data(value) if name == "error" else value)
        texts |= {name: text and text[:limit], f"{name}_bytes": text and len(text.encode())}
    return texts


def stored(text: str, limit: int, **columns: Any) -> dict[str, Any]:
    """A stored value as the statements return it; `pickled:` makes one of another format."""
    kind = "py_pickle" if text.startswith("pickled:") else "portable_json"
    return {**columns, "bytes": len(text.encode()), "value": text[:limit], "serialization": kind}


class FakeOperations:
    """Carries out each operation on the one workflow that it names, or leaves it unfinished."""

    def __init__(self, gateway: FakeGateway) -> None:
        self._gateway = gateway
        self.requested: list[Requested] = []
        self.outcome: dict[str, Any] = {}

    def request(self, requested: Requested) -> dict[str, Any]:
        self.requested.append(requested)
        now = datetime.now(UTC)
        row = {
            "operation_id": f"{requested.kind}-{'0' * 32}",
            "kind": requested.kind,
            "target": requested.target,
            "arguments": requested.arguments,
            "requested_by": requested.by,
            "requested_at": now,
            "status": "SUCCESS",
            "completed": 1,
            "total": 1,
            "advanced_at": now,
            "note": None,
            "ended_at": now,
            **self.outcome,
        }
        status = {"cancel": "CANCELLED", "resume": "ENQUEUED"}.get(requested.kind)
        if status and row["completed"]:
            self._gateway.client.rows[requested.arguments["workflow_id"]].status = status
        self._gateway.operations[row["operation_id"]] = row
        return row


class FakeProcess:
    """A live API process; its life does nothing."""

    role = "api"
    pool = None
    draining_seconds = 0.0
    lease = SimpleNamespace(clock_difference_seconds=0.25, last_heartbeat=0.0)

    def __init__(self, **settings: Any) -> None:
        self.settings = FakeSettings(**settings)
        self.executor_id = "api-test-00000000"
        self.gateway = FakeGateway()
        self.state = "live"
        self.stops: list[str] = []
        self.waker = Waker()
        self.operations = FakeOperations(self.gateway)
        self._stopping = asyncio.Event()

    @asynccontextmanager
    async def life(self) -> AsyncIterator[None]:
        yield

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def active(self) -> list[str]:
        return []

    def ready(self) -> tuple[bool, dict[str, str]]:
        return self.state == "live", {"state": "ok" if self.state == "live" else self.state}

    def request_stop(self, reason: str) -> None:
        self.stops.append(reason)
        self._stopping.set()

    async def wait_stopping(self) -> None:
        await self._stopping.wait()


def executor(executor_id: str, state: str = "live") -> dict[str, Any]:
    """A registry row as `list_executors` returns it."""
    return {
        "executor_id": executor_id,
        "application": WORKER,
        "application_version": "worker-1",
        "role": "worker",
        "state": state,
        "desired_state": "live",
        "hostname": "host",
        "pid": 7,
        "slots": 2,
        "in_flight": 1,
        "heartbeat_age_seconds": 0.4,
        "started_at": datetime.now(UTC),
        "ended_at": None,
        "taken_over_by": None,
        "taken_over_at": None,
        "reason": None,
    }


def computed(n: int, result: str, executor_id: str = "worker-a") -> dict[str, Any]:
    """A stored output of `fibonacci.number`."""
    return {
        "n": n,
        "method": "recursive",
        "result": result,
        "digits": len(result),
        "sha256": "0" * 64,
        "short": result,
        "executor_id": executor_id,
        "pid": 9,
        "attempts": 1,
        "started_at": "2026-01-01T00:00:00+00:00",
        "seconds": 0.25,
    }
