"""How durable values are stored: portable JSON, and never a pickle.

DBOS loads a pickle wherever a row says ``py_pickle``, whatever serializer it was given: whoever can write
a row could run any code in every process that reads it. So what it loads and makes pickles with is
replaced, for every client, application and datasource of this process. What becomes of such a row:

- a workflow whose input it is ends as ERROR when it is claimed, so that nothing waits for it, runs it
  again or counts a crash; nothing of it ran;
- a workflow that replays such a step, event, message, stream or result gets the error where it asks for it;
- listings show the text as it is stored.

Half a surrogate pair (``os.listdir`` makes them of names that are no UTF-8) is a Python text that PostgreSQL
refuses. DBOS writes it as it is: the outcome could never be stored, and the workflow would run again for
ever. So it is written as JSON's escape for it, and comes back as it was.

Private to DBOS 3.4.0 and used here, held by a contract test: ``dbos._serialization.DefaultSerializer``.
"""

from __future__ import annotations

from typing import Any, NoReturn

import dbos._serialization
from dbos import DBOSPortableJSONSerializer

from services.domain.errors import PickleRefused


def json_serializer() -> DBOSPortableJSONSerializer:
    """The one serializer of Holdfast. From its first call on no pickle is read, any text stored."""
    refuse_pickles()
    return DBOSPortableJSONSerializer()


def refuse_pickles() -> None:
    """No pickle is loaded or made through DBOS in this process any more. Idempotent."""
    kind: Any = dbos._serialization.DefaultSerializer
    kind.serialize, kind.deserialize = _serialize, _deserialize
    portable: Any = DBOSPortableJSONSerializer
    portable.serialize = _serialize_portable


_as_dbos_does = DBOSPortableJSONSerializer.serialize


def _serialize_portable(self: DBOSPortableJSONSerializer, value: Any) -> str:
    return _as_dbos_does(self, value).encode("utf-8", "backslashreplace").decode("utf-8")


def _serialize(_: Any, data: Any) -> str:
    # DBOS stores the outcome in the format of the workflow's row. Refused, too, the outcome would be lost,
    # and the workflow with it: unfinished for ever. So errors are stored as the text that they are.
    if isinstance(data, Exception):
        return f"{type(data).__name__}: {data}"
    raise PickleRefused


def _deserialize(_: Any, serialized_data: str) -> NoReturn:  # noqa: ARG001 - not even looked at
    raise PickleRefused
