"""Converts DBOS's rows to the shapes in `models`."""

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
JSON = "portable_json"
# Clients that read numbers as doubles, such as JavaScript, round larger integers (RFC 7493, section 2.2).
SAFE_INTEGER = 2**53 - 1


def iso(milliseconds: int | None) -> str | None:
    """Formats epoch milliseconds as ISO 8601 in UTC."""
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()


def with_safe_integers(value: Any) -> Any:
    """Returns the value with integers beyond ±(2^53 - 1) as decimal strings and lone surrogates escaped.

    Raises ``RecursionError`` for a value that is nested too deeply.
    """
    if isinstance(value, str):
        return escape_surrogates(value)
    if isinstance(value, int) and not -SAFE_INTEGER <= value <= SAFE_INTEGER:
        return decimal_string(value)
    if isinstance(value, dict):
        return {with_safe_integers(key): with_safe_integers(item) for key, item in value.items()}
    return [with_safe_integers(item) for item in value] if isinstance(value, list | tuple) else value


def escape_surrogates(text: str) -> str:
    """Escapes lone surrogates, which UTF-8 cannot encode."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def to_answer(value: Any) -> tuple[Any, str]:
    """Returns a value that JSON can represent, and its JSON text."""
    for convert in (with_safe_integers, _jsonable):
        try:
            answer = convert(value)
            return answer, json.dumps(answer, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            continue
    # An object that JSON cannot represent: the answer holds its `repr`.
    text = escape_surrogates(repr(value))
    return text, text


def _jsonable(value: Any) -> Any:
    """Converts sets to lists, times to ISO 8601, bytes to base64, NaN to text. Raises ``ValueError``."""
    return with_safe_integers(json.loads(to_json(value, inf_nan_mode="strings", bytes_mode="base64")))


def shortened(value: Any) -> tuple[Any, bool]:
    """Returns the value (big integers as strings) and False, or the first 4 kB of its JSON text and True."""
    value, text = to_answer(value)
    if len(text) <= SHOWN_BYTES:
        return value, False
    return text[:SHOWN_BYTES], True


def error_text(error: Any) -> str | None:
    """Returns the error of a workflow or step as one bounded text."""
    if error is None:
        return None
    # An error that cannot be deserialized is the stored text.
    name = "" if isinstance(error, str) else f"{getattr(error, 'name', None) or type(error).__name__}: "
    text = without_values(f"{name}{error}")
    return escape_surrogates(text[:1000])


class Unreadable(str):
    """The sentence that is shown in place of a value that is not stored as JSON."""

    __slots__ = ()


def unreadable(serialization: str | None, size: int | None) -> Unreadable | None:
    """Returns the sentence for a value of that format and size, or None if there is no value.

    A pickle can run any code when it is loaded, so only its application loads it.
    """
    if size is None:
        return None
    how = "as pickle" if serialization in (None, "py_pickle") else f"by the serializer {serialization}"
    return Unreadable(f"stored {how}, readable only by the application ({size:,} bytes)")


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
    """Converts a row of `list_workflows`."""
    times = {name: iso(row[name]) for name in ("created_at", "started_at", "completed_at")}
    kind = row.pop("wait_kind")
    wait = {"kind": kind, **{name: row.pop(f"wait_{name}") for name in ("subject", "since", "until")}}
    wait_state = waiting(row["status"], row["queue_name"], row["created_at"], row.pop("delay_until"), wait)
    return Workflow(**{**row, **times, "waiting": wait_state})


def waiting(
    status: str,
    queue: str | None,
    created_at: int | None,
    delay_until: int | None,
    wait: dict[str, Any] | None,
) -> Waiting | None:
    """Returns what a workflow waits for: a delay, its queue, or the wait that its process recorded."""
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
    """Converts one workflow with its shortened payloads (`submit.load`) and the row of `wait_of`."""
    input_, input_cut = shortened(row.input)
    output, output_cut = shortened(row.output)
    return WorkflowDetail(
        **_columns(row),
        waiting=waiting(row.status, row.queue_name, row.created_at, row.delay_until_epoch_ms, wait),
        input=input_,
        input_shortened=input_cut,
        output=output,
        output_shortened=output_cut,
        error=error_text(row.error),
    )


def stored_value(row: dict[str, Any], limit: int) -> StoredValue:
    """Converts a stored value, of which the row has at most ``limit`` characters. Deserializes only JSON."""
    value, cut = row["value"], row["bytes"] > limit
    if row["serialization"] != JSON:
        value, cut = unreadable(row["serialization"], row["bytes"]), False
    elif not cut:
        try:
            value = to_answer(json_serializer().deserialize(value))[0]
        except (ValueError, RecursionError):
            value = escape_surrogates(value)
    return StoredValue(
        value=value, bytes=row["bytes"], shortened=cut, format=row["serialization"] or "py_pickle"
    )


def event(row: dict[str, Any], limit: int) -> Event:
    """Converts a row of `workflow_events`."""
    return Event(key=row["key"], **stored_value(row, limit).model_dump())


def step(row: StepInfo, stored: dict[str, Any] | None = None) -> Step:
    """Converts a recorded step, with its output shortened. `stored` is its row of `step_formats`, if any."""
    output, cut = shortened(row["output"])
    error = error_text(row["error"])
    if stored is not None:
        output, cut = unreadable(stored["serialization"], stored["output"]), False
        error = unreadable(stored["serialization"], stored["error"])
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
        error=error,
    )
