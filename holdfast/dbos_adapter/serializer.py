"""How durable values are stored: portable JSON, and never a pickle.

DBOS loads a pickle wherever a row says ``py_pickle``, whatever serializer it was given: whoever can write
a row could run any code in every process that reads it. So what it loads and makes pickles with is
replaced, for every client, application and datasource of this process. What becomes of such a row:

- a workflow whose input it is ends as ERROR when it is claimed, so that nothing waits for it, runs it
  again or counts a crash; nothing of it ran;
- a workflow that replays such a step, event, message, stream or result gets the error where it asks for it;
- listings show the text as it is stored.

What JSON has no type for is tagged (holdfast/dbos_adapter/values.py): a value comes back as what it was, in a
replay, a child's result, an event or a message, or is refused with its type named. What of an error is not
its text is stored as far as it can be, so that an error can always be stored.

Private to DBOS 3.4.0 and replaced here, held by contract tests: ``dbos._serialization.DefaultSerializer``
(tests/integration/dbos_adapter/test_no_pickle.py)
and ``exception_to_workflow_error_data`` (test_outcomes.py).
"""

from __future__ import annotations

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
    """A value whose text is made already, so that it is made once."""

    value: Any
    text: str


def json_serializer() -> DBOSPortableJSONSerializer:
    """The one serializer of Holdfast. From its first call on no pickle is read, any error can be stored."""
    refuse_pickles()
    return DBOSPortableJSONSerializer()


def refuse_pickles() -> None:
    """No pickle is loaded or made through DBOS in this process any more. Idempotent."""
    kind: Any = dbos._serialization.DefaultSerializer
    kind.serialize, kind.deserialize = _serialize, _deserialize
    portable: Any = DBOSPortableJSONSerializer
    portable.serialize, portable.deserialize = _serialize_portable, _deserialize_portable
    serialization: Any = dbos._serialization
    serialization.exception_to_workflow_error_data = error_data


def is_ours(serializer: object) -> bool:
    """Whether it stores values as `json_serializer` does."""
    return isinstance(serializer, DBOSPortableJSONSerializer)


def stored(value: Any) -> Stored:
    """A value with its text. Raises `UnstorableValue`."""
    return value if isinstance(value, Stored) else Stored(value, values.dump(value))


def _serialize_portable(_: Any, value: Any) -> str:
    return value.text if isinstance(value, Stored) else values.dump(value)


def _deserialize_portable(_: Any, text: str | None) -> Any:
    return None if text is None else values.load(text)


def _serialize(_: Any, data: Any) -> str:
    # DBOS stores the outcome in the format of the workflow's row. Refused, too, the outcome would be lost,
    # and the workflow with it: unfinished for ever. So errors are stored as the text that they are, without
    # what PostgreSQL takes for no text.
    if isinstance(data, Exception):
        text = f"{type(data).__name__}: {error_text(data)}"
        return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
    raise PickleRefused


def _deserialize(_: Any, serialized_data: str) -> NoReturn:  # noqa: ARG001 - not even looked at
    raise PickleRefused


def error_data(error: Any) -> Any:
    """What is stored of an error, in DBOS's form: always storable, whatever the error's class does.

    An error that was loaded keeps its name: what a replay ends with is what the first run ended with.
    """
    name = error.name if isinstance(error, PortableWorkflowError) else type(error).__name__
    data: dict[str, Any] = {"name": str(name), "message": error_text(error), "code": None}
    for attribute in _CODES:
        found = _attribute(error, attribute)
        # A class of its own, as http.HTTPStatus, is the number that it is.
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
    """The text of an error, its class's name where it has none; of a group, of all that is in it."""
    try:
        # A plain one, of whatever class it is.
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
