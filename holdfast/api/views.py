"""From DBOS's rows to the shapes in `models`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from dbos import StepInfo, WorkflowStatus
from pydantic_core import to_json

from holdfast.api.models import Step, Waiting, Workflow, WorkflowDetail
from holdfast.api.models_messages import Event, StoredValue
from holdfast.dbos_adapter.serializer import json_serializer
from holdfast.integers import decimal_string
from holdfast.observability.redaction import without_values

SHOWN_BYTES = 4096
# Beyond it JavaScript, and whoever else reads numbers as doubles, would round (RFC 7493, section 2.2).
SAFE_INTEGER = 2**53 - 1


def iso(milliseconds: int | None) -> str | None:
    """Epoch milliseconds as ISO 8601 in UTC."""
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()


def exact(value: Any) -> Any:
    """The value with integers beyond ±(2^53 - 1) as decimal strings, and text that is no Unicode readable.

    Raises ``RecursionError``.
    """
    if isinstance(value, str):
        return readable(value)
    if isinstance(value, int) and not -SAFE_INTEGER <= value <= SAFE_INTEGER:
        return decimal_string(value)
    if isinstance(value, dict):
        return {exact(key): exact(item) for key, item in value.items()}
    return [exact(item) for item in value] if isinstance(value, list | tuple) else value


def readable(text: str) -> str:
    """Half surrogate pairs as their escapes: no answer can hold them."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def shown(value: Any) -> tuple[Any, str]:
    """A value as an answer can hold it, and its JSON text."""
    for plain in (exact, _jsonable):
        try:
            answer = plain(value)
            return answer, json.dumps(answer, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            continue
    # A foreign object: its text is all that an answer can hold.
    text = readable(repr(value))
    return text, text


def _jsonable(value: Any) -> Any:
    """Sets as lists, times in ISO 8601, bytes in base64, NaN as text. Raises ``ValueError``."""
    return exact(json.loads(to_json(value, inf_nan_mode="strings", bytes_mode="base64")))


def shortened(value: Any) -> tuple[Any, bool]:
    """A value as it is (big integers as strings), or the first 4 kB of its JSON text and True."""
    value, text = shown(value)
    if len(text) <= SHOWN_BYTES:
        return value, False
    return text[:SHOWN_BYTES], True


def error_text(error: Any) -> str | None:
    """An error of a workflow or step in one bounded sentence."""
    if error is None:
        return None
    # One that can't be read comes as the text that is stored.
    name = "" if isinstance(error, str) else f"{getattr(error, 'name', None) or type(error).__name__}: "
    text = without_values(f"{name}{error}")
    return readable(text[:1000])


def _columns(row: WorkflowStatus) -> dict[str, Any]:
    return {
        "workflow_id": row.workflow_id,
        "name": row.name,
        "status": row.status,
        "class_name": row.class_name,
        "instance_name": row.config_name,
        "application": row.application_name,
        "application_version": row.app_version,
        "queue_name": row.queue_name,
        "executor_id": row.executor_id,
        "attempts": row.recovery_attempts,
        "parent_workflow_id": row.parent_workflow_id,
        "forked_from": row.forked_from,
        "created_at": iso(row.created_at),
        "started_at": iso(row.dequeued_at),
        "completed_at": iso(row.completed_at),
    }


def listed(row: dict[str, Any]) -> Workflow:
    """A row of `list_workflows`."""
    times = {name: iso(row[name]) for name in ("created_at", "started_at", "completed_at")}
    kind = row.pop("wait_kind")
    wait = {"kind": kind, **{name: row.pop(f"wait_{name}") for name in ("subject", "since", "until")}}
    found = waiting(row["status"], row["queue_name"], row["created_at"], row.pop("delay_until"), wait)
    return Workflow(**{**row, **times, "waiting": found})


def waiting(
    status: str,
    queue: str | None,
    created_at: int | None,
    delay_until: int | None,
    wait: dict[str, Any] | None,
) -> Waiting | None:
    """What a workflow waits for: a delay, its queue, or what the process says that runs it."""
    if status == "DELAYED":
        return Waiting(kind="delay", subject=queue, since=iso(created_at), until=iso(delay_until))
    if status == "ENQUEUED" and queue is not None:
        return Waiting(kind="queue", subject=queue, since=iso(created_at))
    if status != "PENDING" or wait is None or wait["kind"] is None:
        return None
    since, until = (
        None if wait[name] is None else wait[name].astimezone(UTC).isoformat() for name in ("since", "until")
    )
    return Waiting(kind=wait["kind"], subject=wait["subject"], since=since, until=until)


def workflow_detail(row: WorkflowStatus, wait: dict[str, Any] | None) -> WorkflowDetail:
    """One workflow with its payloads, shortened, and what `wait_of` found."""
    given, given_cut = shortened(row.input)
    output, output_cut = shortened(row.output)
    return WorkflowDetail(
        **_columns(row),
        waiting=waiting(row.status, row.queue_name, row.created_at, row.delay_until_epoch_ms, wait),
        input=given,
        input_shortened=given_cut,
        output=output,
        output_shortened=output_cut,
        error=error_text(row.error),
    )


def stored_value(row: dict[str, Any], limit: int) -> StoredValue:
    """A stored value whose row has at most ``limit`` characters of it. Nothing but JSON is ever loaded."""
    value, cut = row["value"], row["bytes"] > limit
    if not cut and row["serialization"] == "portable_json":
        try:
            value = shown(json_serializer().deserialize(value))[0]
        except (ValueError, RecursionError):
            value = readable(value)
    return StoredValue(
        value=value, bytes=row["bytes"], shortened=cut, format=row["serialization"] or "py_pickle"
    )


def event(row: dict[str, Any], limit: int) -> Event:
    """A row of `workflow_events`."""
    return Event(key=row["key"], **stored_value(row, limit).model_dump())


def step(row: StepInfo) -> Step:
    """A recorded step, its output shortened."""
    output, cut = shortened(row["output"])
    started, completed = row["started_at_epoch_ms"], row["completed_at_epoch_ms"]
    return Step(
        step_id=row["function_id"],
        name=row["function_name"],
        child_workflow_id=row["child_workflow_id"],
        started_at=iso(started),
        completed_at=iso(completed),
        seconds=None if started is None or completed is None else (completed - started) / 1000,
        output=output,
        output_shortened=cut,
        error=error_text(row["error"]),
    )
