"""Converts values to the JSON text that is stored, and back: to the same value, or `UnstorableValue`.

A value of a JSON type stays plain JSON: ``{"n": 1}`` is stored unchanged. Any other value becomes an object
of one key that begins with ``$py:``, such as ``{"$py:tuple":[1,2]}``, so the text stays valid JSON that SQL
and people can read. A dict of that form is stored as ``$py:dict``, so that user data is never taken for a
tag. Loading calls only the types named here: it looks up no class and loads no code.

Types must match exactly. A subclass (an enum, a named tuple, a NumPy float) would come back as its base, so
it is refused.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from holdfast.errors import UnstorableValue

MARK = "$py:"

DEPTH = 200
"""Limits the nesting: deeper values could be read back only where the reader's own stack suffices."""

BYTES = 1 << 29
"""Limits the text. PostgreSQL holds twice that in one field. A reader needs several times that."""

# Python neither writes nor reads integers of more than 4,300 decimal digits. Hexadecimal has no such limit.
_LONG_BITS = 14_000
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
# A tree that `_Plain` made is new, so it has no cycles.
_encode = json.JSONEncoder(
    separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False
).encode
_MOMENT = re.compile(r"([^\[;]+)(?:\[([^\]]+)\])?(;fold=1)?")


def dump(value: Any, *, known_as: Callable[[Any], Any] | None = None) -> str:
    """Returns the JSON text of a value. Raises `UnstorableValue`, which names the type.

    `known_as` turns a value of another type into a storable one, for a caller that knows from an annotation
    how to turn it back.
    """
    return _dumped(value, known_as)[0]


def dump_and_load(value: Any, *, known_as: Callable[[Any], Any] | None = None) -> tuple[str, Any]:
    """Returns the text as `dump` does, and a new value equal to what `load` returns for it."""
    text, plain = _dumped(value, known_as)
    return text, load(text) if plain is None or MARK in text else plain


def _dumped(value: Any, known_as: Callable[[Any], Any] | None) -> tuple[str, Any]:
    """Returns the text, and the plain tree that it represents, or None if the text has to be read for it."""
    text, plain = _text(value, None, known_as)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            # Half a surrogate pair is written as its JSON escape. Two adjacent halves would be read as one
            # character, so such a text is tagged.
            text = _text(value, _split_text, known_as)[0].encode("utf-8", "backslashreplace").decode()
            plain = None
    if len(text) > BYTES // 4 and len(text.encode()) > BYTES:
        raise UnstorableValue(f"A value of more than {BYTES >> 20} MiB cannot be stored.")
    return text, plain


def load(text: str) -> Any:
    """Returns the value of a text that `dump` made, or of any other JSON, whose values are plain."""
    if MARK not in text:
        return json.loads(text)
    return json.loads(text, object_hook=_restored)


def _text(
    value: Any, of_text: Callable[[str], Any] | None, known_as: Callable[[Any], Any] | None
) -> tuple[str, Any]:
    try:
        plain = _Plain(of_text, known_as).of(value, DEPTH)
        return _encode(plain), plain
    except RecursionError as error:
        # Any other error would be retried, which would repeat the effect.
        raise too_deep() from error


class _Plain:
    """Converts values to types that ``json`` writes and reads exactly."""

    def __init__(self, of_text: Callable[[str], Any] | None, known_as: Callable[[Any], Any] | None) -> None:
        self._of_text, self._known_as = of_text, known_as

    def of(self, value: Any, depth: int) -> Any:
        """Returns `value`, with a tag wherever JSON lacks the type."""
        kind = type(value)
        if kind is str:
            return value if self._of_text is None else self._of_text(value)
        if value is None or kind is bool:
            return value
        if kind is int:
            return value if value.bit_length() < _LONG_BITS else {"$py:int": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"$py:float": repr(value)}
        return self._composed(kind, value, depth)

    def _composed(self, kind: type, value: Any, depth: int) -> Any:
        if depth == 0:
            raise UnstorableValue(f"A value nested more than {DEPTH} deep cannot be stored.")
        if kind is dict:
            return self._dict(value, depth - 1)
        if kind is list:
            return [self.of(item, depth - 1) for item in value]
        if kind in (tuple, set, frozenset):
            return {MARK + kind.__name__: [self.of(item, depth - 1) for item in value]}
        if (dumper := _DUMPERS.get(kind)) is not None:
            return {MARK + kind.__name__.lower(): dumper(value)}
        if self._known_as is None:
            raise unstorable(kind)
        return self.of(self._known_as(value), depth - 1)

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        plain = {}
        for key, item in value.items():
            if type(key) is not str or (len(value) == 1 and key.startswith(MARK)):
                break
            if type(written := key if self._of_text is None else self._of_text(key)) is not str:
                break
            plain[written] = self.of(item, depth)
        else:
            return plain
        return {"$py:dict": [[self.of(key, depth), self.of(item, depth)] for key, item in value.items()]}


def too_deep() -> UnstorableValue:
    """Returns the error for a value that is nested too deep for the remaining stack."""
    return UnstorableValue(
        "The value is nested too deep for the stack that its code left, so it cannot be stored."
    )


def unstorable(kind: type) -> UnstorableValue:
    """Returns the error for a value of that type."""
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return UnstorableValue(
        f"A value of type {name} cannot be stored: it would not come back as what it was. Return plain "
        "values, or annotate the type in a step or workflow of holdfast.durable.registry."
    )


def _split_text(value: str) -> Any:
    if not _PAIR.search(value):
        return value
    return {"$py:str": base64.b64encode(value.encode("utf-8", "surrogatepass")).decode()}


def _moment(value: datetime | time) -> str:
    zone = value.tzinfo
    fold = ";fold=1" if value.fold else ""
    if type(zone) is ZoneInfo and zone.key:
        return f"{value.replace(tzinfo=None).isoformat()}[{zone.key}]{fold}"
    if zone is not None and type(zone) is not timezone:
        raise unstorable(type(zone))
    return f"{value.isoformat()}{fold}"


def _load_moment(kind: type[datetime] | type[time], text: str) -> datetime | time:
    found = _MOMENT.fullmatch(text)
    if found is None:
        raise ValueError(text)
    moment = kind.fromisoformat(found[1])
    if found[2]:
        moment = moment.replace(tzinfo=ZoneInfo(found[2]))
    return moment.replace(fold=1) if found[3] else moment


def _base64(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode()


def _unbase64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _items(found: Any) -> list[Any]:
    if type(found) is not list:
        raise TypeError(found)
    return found


_DUMPERS: dict[type, Callable[[Any], Any]] = {
    bytes: _base64,
    bytearray: _base64,
    complex: lambda value: [repr(value.real), repr(value.imag)],
    date: date.isoformat,
    datetime: _moment,
    Decimal: str,
    time: _moment,
    timedelta: lambda value: [value.days, value.seconds, value.microseconds],
    UUID: str,
}

_LOADERS: dict[str, Callable[[Any], Any]] = {
    "$py:bytearray": lambda text: bytearray(_unbase64(text)),
    "$py:bytes": _unbase64,
    "$py:complex": lambda parts: complex(float(parts[0]), float(parts[1])),
    "$py:date": date.fromisoformat,
    "$py:datetime": lambda text: _load_moment(datetime, text),
    "$py:decimal": Decimal,
    "$py:dict": lambda pairs: dict(_items(pairs)),
    "$py:float": float,
    "$py:frozenset": lambda items: frozenset(_items(items)),
    "$py:int": lambda text: int(text, 16),
    "$py:set": lambda items: set(_items(items)),
    "$py:str": lambda text: _unbase64(text).decode("utf-8", "surrogatepass"),
    "$py:time": lambda text: _load_moment(time, text),
    "$py:timedelta": lambda parts: timedelta(*parts),
    "$py:tuple": lambda items: tuple(_items(items)),
    "$py:uuid": UUID,
}


def _restored(found: dict[str, Any]) -> Any:
    if len(found) == 1:
        [(key, item)] = found.items()
        if (loader := _LOADERS.get(key)) is not None:
            try:
                return loader(item)
            except (TypeError, ValueError, LookupError, ArithmeticError):
                # `dump` writes no such object: it is another program's JSON and stays unchanged.
                return found
    return found
