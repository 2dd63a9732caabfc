"""Converts DBOS's rows to the shapes in `models`."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json

from holdfast.api.models import Step, Waiting, Workflow, WorkflowDetail
from holdfast.api.models_messages import Event, StoredValue
from holdfast.dbos_adapter.serializer import json_serializer
from holdfast.integers import decimal_string
from holdfast.observability.redaction import without_values
from holdfast.postgres.database import Row

SHOWN_BYTES = 4096
"""How much of a value is read at most, of any workflow or step: PostgreSQL cuts what is longer."""
ERROR_CHARACTERS = 1000
JSON = "portable_json"
_ERROR = re.compile(r'\{"name": ?("(?:[^"\\]|\\.)*"), ?"message": ?("(?:[^"\\]|\\(?:u[0-9a-fA-F]{4}|[^u]))*)')
# Clients that read numbers as doubles, such as JavaScript, round larger integers (RFC 7493, section 2.2).
SAFE_INTEGER = 2**53 - 1


def iso(milliseconds: int | None) -> str | None:
    """Formats epoch milliseconds as ISO 8601 in UTC. Returns None beyond the years 1 to 9999."""
    try:
        return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return None


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
    return _bounded(f"{name}{error}")[0]


def _bounded(text: str) -> tuple[str, bool]:
    text = without_values(text)
    return escape_surrogates(text[:ERROR_CHARACTERS]), len(text) > ERROR_CHARACTERS


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


def read_value(row: Row, name: str, limit: int) -> tuple[Any, bool]:
    """Returns a stored value, and whether it is only the first ``limit`` characters of a longer text.

    ``row`` has the text in ``name``, its whole length in ``<name>_bytes``, and its format.
    """
    size, text = row[f"{name}_bytes"], row[name]
    if size is None or row["serialization"] != JSON:
        return unreadable(row["serialization"], size), False
    if size > limit:
        return escape_surrogates(text), True
    try:
        return json_serializer().deserialize(text), False
    except (ValueError, RecursionError):
        return escape_surrogates(text), False


def read_error(row: Row, limit: int) -> tuple[str | None, bool]:
    """Returns the stored error of a row as `read_value` does, as one bounded text."""
    error, cut = read_value(row, "error", limit)
    if error is None or isinstance(error, Unreadable):
        return error, False
    if cut:
        error = _first_members(error)
    if isinstance(error, dict) and error.keys() >= {"name", "message"}:
        error = f"{error['name']}: {error['message']}"
    elif not isinstance(error, str):
        error = row["error"]
    text, cut_again = _bounded(error)
    return text, cut or cut_again


def _first_members(text: str) -> Any:
    """Returns name and message of an error from the beginning of its JSON text, else that beginning."""
    match = _ERROR.match(text)
    if match is None:
        return text
    try:
        return {"name": json.loads(match[1]), "message": json.loads(f'{match[2]}"')}
    except ValueError:
        return text


def listed(row: Row) -> Workflow:
    """Converts a row of `list_workflows`."""
    times = {name: iso(row[name]) for name in ("created_at", "started_at", "completed_at")}
    kind = row.pop("wait_kind")
    wait = {"kind": kind, **{name: row.pop(f"wait_{name}") for name in ("subject", "since", "until")}}
    wait_state = waiting(row["status"], row["queue_name"], row["created_at"], row.pop("delay_until"), wait)
    missing = {name: row[name] or "" for name in ("name", "status")}
    return Workflow(**{**row, **times, **missing, "waiting": wait_state})


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


def workflow_detail(row: Row) -> WorkflowDetail:
    """Converts a row of `workflow_detail`, of whose values it has at most `SHOWN_BYTES` characters."""
    shown: dict[str, Any] = {}
    for name in ("input", "output"):
        value, cut = read_value(row, name, SHOWN_BYTES)
        if name == "input" and isinstance(value, dict) and value.keys() <= {"positionalArgs", "namedArgs"}:
            value = {"args": value.get("positionalArgs") or [], "kwargs": value.get("namedArgs") or {}}
        shown[name], shown[f"{name}_shortened"] = (value, cut) if cut else shortened(value)
    shown["error"], shown["error_shortened"] = read_error(row, SHOWN_BYTES)
    return WorkflowDetail(**{**listed(dict(row)).model_dump(), **shown})


def stored_value(row: Row, limit: int) -> StoredValue:
    """Converts a stored value, of which the row has at most ``limit`` characters. Deserializes only JSON."""
    value, cut = read_value({**row, "value_bytes": row["bytes"]}, "value", limit)
    return StoredValue(
        value=to_answer(value)[0],
        bytes=row["bytes"],
        shortened=cut,
        format=row["serialization"] or "py_pickle",
    )


def event(row: Row, limit: int) -> Event:
    """Converts a row of `workflow_events`."""
    return Event(key=row["key"], **stored_value(row, limit).model_dump())


def step(row: Row) -> Step:
    """Converts a row of `workflow_steps`, of whose values it has at most `SHOWN_BYTES` characters."""
    output, cut = read_value(row, "output", SHOWN_BYTES)
    if not cut:
        output, cut = shortened(output)
    error, error_cut = read_error(row, SHOWN_BYTES)
    started, completed = row["started_at"], row["completed_at"]
    return Step(
        step_id=row["step_id"],
        name=row["name"],
        child_workflow_id=row["child_workflow_id"],
        started_at=iso(started),
        completed_at=iso(completed),
        seconds=None if started is None or completed is None else (completed - started) / 1000,
        output=output,
        output_shortened=cut,
        error=error,
        error_shortened=error_cut,
    )
