"""What is stored comes back as what it was, or is refused with its type named."""

from __future__ import annotations

import inspect
import json
import sys
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.dbos_adapter.serializer import Stored, json_serializer, keep_text
from holdfast.dbos_adapter.values import DEPTH, dump, dump_and_load, load
from holdfast.errors import UnstorableValue


class Colour(Enum):
    RED = 1


class Level(IntEnum):
    LOW = 1


class Word(StrEnum):
    YES = "yes"


Point = namedtuple("Point", "x y")


class Loud(str):
    pass


@dataclass(frozen=True)
class Plain:
    a: int = 1


class Zone(tzinfo):
    def utcoffset(self, _: Any) -> timedelta:
        return timedelta(hours=1)


ODD = [
    Colour.RED, Level.LOW, Word.YES, Point(1, 2), Loud("a"), Plain(), object(), len, int, Path("/"),
    Counter("a"), OrderedDict(a=1), defaultdict(int), deque([1]), range(3), memoryview(b"a"),
    (n for n in [1]), ValueError("a"), UTC, datetime(2026, 1, 1, tzinfo=Zone()), time(1, tzinfo=Zone()), ...,
]  # fmt: skip

zones = st.sampled_from(
    [None, UTC, timezone(timedelta(hours=5, minutes=30, seconds=7)), ZoneInfo("Europe/Berlin")]
)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=10**4200, max_value=10**4400),
    st.floats(),
    st.complex_numbers(),
    st.text(st.characters(exclude_categories=[])),
    st.sampled_from(["\ud83d\ude00", "a\x00b", "$py:tuple", "\udce9"]),
    st.binary(),
    st.decimals(),
    st.datetimes(timezones=zones) | st.datetimes().map(lambda moment: moment.replace(fold=1)),
    st.dates(),
    st.times(timezones=zones),
    st.timedeltas(),
    st.uuids(),
)
keys = st.one_of(
    st.text(max_size=3),
    st.sampled_from(["$py:tuple", "$py:dict", "$py:other", "\ud83d\ude00"]),
    st.integers(),
    st.tuples(st.integers(), st.dates()),
    st.binary(max_size=2),
    st.none(),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
        st.frozensets(keys, max_size=4),
        st.sets(keys, max_size=4),
        st.binary(max_size=4).map(bytearray),
    ),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    """Equal in value and in every type; NaN is NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            same(a, b)
            for pair in zip(one.items(), other.items(), strict=True)
            for a, b in zip(*pair, strict=True)
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, set | frozenset):
        return {(type(each), each) for each in one} == {(type(each), each) for each in other}
    if isinstance(one, datetime | time):
        return (one, one.fold, str(one.tzinfo)) == (other, other.fold, str(other.tzinfo))
    return repr(one) == repr(other) if isinstance(one, float | complex | Decimal) else bool(one == other)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values)
def test_a_value_comes_back_as_what_it_was(value: Any) -> None:
    text = dump(value)
    text.encode()  # PostgreSQL takes it
    assert "\x00" not in text
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert same(load(text), value)
    assert dump(load(text)) == text or "set" in text
    made, loaded = dump_and_load(value)
    assert made == text
    assert same(loaded, load(text))


def test_a_loaded_value_shares_nothing_with_the_one_that_was_dumped() -> None:
    value = {"a": [{"b": [1]}]}
    text, loaded = dump_and_load(value)
    value["a"][0]["b"].append(2)
    assert loaded == load(text) == {"a": [{"b": [1]}]}


def test_a_kept_text_is_stored_once_for_its_value_only() -> None:
    store = json_serializer().serialize
    made = Stored([1], "kept")
    assert [store(keep_text(made)), store(made.value)] == ["kept", "[1]"]
    keep_text(made)
    assert [store([1]), store(made.value)] == ["[1]", "[1]"], "another value came in between"


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: type(odd).__name__)
@pytest.mark.parametrize("place", [lambda odd: odd, lambda odd: {"a": [odd]}, lambda odd: (1, odd)])
def test_or_is_refused_with_its_type_named(odd: Any, place: Any) -> None:
    name = type(odd.tzinfo if isinstance(odd, datetime | time) else odd).__qualname__
    with pytest.raises(UnstorableValue, match=rf"{name} cannot be stored"):
        dump(place(odd))


def test_odd_keys_are_refused_too() -> None:
    with pytest.raises(UnstorableValue, match="Colour"):
        dump({Colour.RED: 1})
    with pytest.raises(UnstorableValue, match="Loud"):
        dump({Loud("a"): 1})


def test_plain_json_stays_plain() -> None:
    value = {"a": [1, "b", None, True, 1.5], "$ref": "#/x", "": {}}
    assert dump(value) == '{"a":[1,"b",null,true,1.5],"$ref":"#/x","":{}}'
    assert dump({"$py:tuple": [1]}) == '{"$py:dict":[["$py:tuple",[1]]]}'
    assert dump((1, b"\xff")) == '{"$py:tuple":[1,{"$py:bytes":"/w=="}]}'


@pytest.mark.parametrize(
    "foreign",
    [
        '{"$py:what": 1}',
        '{"$py:bytes": 7}',
        '{"$py:tuple": "ab"}',
        '{"$py:datetime": "soon"}',
        '{"$py:tuple": [], "a": 1}',
    ],
)
def test_what_others_wrote_stays_what_it_is(foreign: str) -> None:
    assert load(foreign) == json.loads(foreign)


def test_what_was_stored_before_is_read() -> None:
    assert repr(load('{"a":[NaN,Infinity,"2026-01-01"]}')) == "{'a': [nan, inf, '2026-01-01']}"


def test_depth_and_circles_are_refused_alike_whatever_the_stack() -> None:
    deep: Any = 1
    for _ in range(DEPTH):
        deep = [deep]
    assert load(dump(deep)) == deep
    circle: list[Any] = []
    circle.append(circle)
    for value in ([deep], circle, {"a": circle}):
        with pytest.raises(UnstorableValue, match="nested"):
            dump(value)


def test_a_stack_that_does_not_suffice_refuses_the_value() -> None:
    """Another error would be tried again, and the effect repeated."""
    deep: Any = "\udce9"
    for _ in range(150):
        deep = [deep]

    def dump_at(frames: int) -> str:
        return dump_at(frames - 1) if frames else dump(deep)

    left = sys.getrecursionlimit() - len(inspect.stack(0))
    for spare in (100, 200):
        with pytest.raises(UnstorableValue, match="stack"):
            dump_at(left - spare)


def test_no_class_is_looked_up() -> None:
    assert load('{"$py:os.system":"true"}') == {"$py:os.system": "true"}
