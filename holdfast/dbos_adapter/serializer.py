"""Stores durable values as portable JSON, and never as a pickle.

DBOS loads a pickle wherever a row says ``py_pickle``, whatever its configured serializer: a client that can
write a row could run any code in every process that reads it. So the methods that load and make pickles are
replaced, for every client, application and datasource of this process. Such a row has these effects:

- if it is a workflow's input, the workflow ends as ERROR when it is claimed, so that no caller waits for it
  and no process runs it again or counts a crash; none of it ran;
- if a workflow replays such a step, event, message, stream or result, it gets the error at that call;
- listings show the stored text.

A value without a JSON type is tagged (holdfast/dbos_adapter/values.py): it comes back unchanged in a replay,
a child's result, an event or a message, or is refused with its type named. The attributes of an error, other
than its text, are stored as far as possible, so that an error can always be stored.

Private to DBOS 3.4.0 and replaced here, held by contract tests: ``dbos._serialization.DefaultSerializer``
(tests/integration/dbos_adapter/test_no_pickle.py) and ``exception_to_workflow_error_data``
(test_outcomes.py).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, NoReturn

import dbos._serialization
from dbos import DBOSPortableJSONSerializer, PortableWorkflowError

from holdfast.dbos_adapter import values
from holdfast.errors import PickleRefused, UnstorableValue

_LINKED = ("data", "details", "payload", "extra", "meta", "metadata")
_CODES = ("code", "error_code", "errno", "status", "status_code")


@dataclass(frozen=True)
class Stored:
    """A value with its text, so that the text is made only once."""

    value: Any
    text: str


def json_serializer() -> DBOSPortableJSONSerializer:
    """Returns Holdfast's only serializer. From its first call on, it refuses pickles and stores any error."""
    refuse_pickles()
    return DBOSPortableJSONSerializer()


def refuse_pickles() -> None:
    """Makes DBOS refuse to load or make pickles in this process. Idempotent."""
    kind: Any = dbos._serialization.DefaultSerializer
    kind.serialize, kind.deserialize = _serialize, _deserialize
    portable: Any = DBOSPortableJSONSerializer
    portable.serialize, portable.deserialize = _serialize_portable, _deserialize_portable
    serialization: Any = dbos._serialization
    serialization.exception_to_workflow_error_data = error_data


def is_ours(serializer: object) -> bool:
    """Returns whether a serializer stores values as `json_serializer` does."""
    return isinstance(serializer, DBOSPortableJSONSerializer)


def stored(value: Any) -> Stored:
    """Returns a value with its text. Raises `UnstorableValue`."""
    return value if isinstance(value, Stored) else Stored(value, values.dump(value))


_kept = threading.local()


def keep_text(made: Stored) -> Any:
    """Returns the value. Serialized by this thread next, it has this text; until then it must not change."""
    _kept.last = made
    return made.value


def _serialize_portable(_: Any, value: Any) -> str:
    kept = _kept.__dict__.pop("last", None)
    if isinstance(value, Stored):
        return value.text
    return kept.text if kept is not None and kept.value is value else values.dump(value)


def _deserialize_portable(_: Any, text: str | None) -> Any:
    return None if text is None else values.load(text)


def _serialize(_: Any, data: Any) -> str:
    # DBOS stores the outcome in the format of the workflow's row. If errors were refused too, the outcome
    # would be lost and the workflow unfinished forever. So an error is stored as its text, without characters
    # that PostgreSQL refuses in a text.
    if isinstance(data, Exception):
        text = f"{type(data).__name__}: {error_text(data)}"
        return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
    raise PickleRefused


def _deserialize(_: Any, serialized_data: str) -> NoReturn:  # noqa: ARG001 - never read
    raise PickleRefused


def error_data(error: Any) -> Any:
    """Returns the stored form of an error, as DBOS has it. It is storable, whatever the error's class does.

    An error that was loaded keeps its name, so that a replay ends with the same error as the first run.
    """
    name = error.name if isinstance(error, PortableWorkflowError) else type(error).__name__
    data: dict[str, Any] = {"name": str(name), "message": error_text(error), "code": None}
    for attribute in _CODES:
        found = _attribute(error, attribute)
        # A subclass such as http.HTTPStatus is stored as its number.
        if found is not None and isinstance(found, int | str):
            data["code"] = int(found) if isinstance(found, int) else "".join([found])
            break
    for attribute in _LINKED:
        found = _attribute(error, attribute)
        if found is not None and not callable(found):
            data["data"] = _storable(found)
            break
    return data


def error_text(error: BaseException) -> str:
    """Returns the text of an error, or its class's name if unreadable; of a group, all of its texts."""
    try:
        # The join makes a plain text, even of a subclass of `str`.
        text = "".join([str(error)])
    except BaseException:
        return f"{type(error).__name__}: its text cannot be read"
    if isinstance(error, BaseExceptionGroup):
        inner = "; ".join(f"{type(each).__name__}: {error_text(each)}" for each in error.exceptions)
        return f"{text}: {inner}"
    return text


def _attribute(error: Any, name: str) -> Any:
    try:
        return getattr(error, name, None)
    except BaseException:
        return None


def _storable(found: Any) -> Any:
    try:
        values.dump(found)
        return found
    except UnstorableValue:
        try:
            return "".join([str(found)])
        except BaseException:
            return type(found).__name__
