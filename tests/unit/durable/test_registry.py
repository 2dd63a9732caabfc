"""Registering a module of one's own: what is refused at the start, and what becomes of arguments."""

from __future__ import annotations

import math
import sys
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from pydantic import BaseModel, Field

from holdfast.console.labels import label
from holdfast.dbos_adapter.serializer import Stored
from holdfast.dbos_adapter.values import dump, load
from holdfast.durable import registry
from holdfast.durable.signature import Revived, Signature
from holdfast.errors import InvalidRequest, ModuleFailed, ModuleWrong, UnstorableValue
from services.composition import Worker
from services.settings import ShowcaseSettings
from tests.support import names
from tests.support.own import forgotten

HEAD = "from holdfast import DbosWorkflow, Queue, Schedule, register, step, workflow\n"
Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module; its name, which no other test has."""
    monkeypatch.syspath_prepend(str(tmp_path))
    written: list[str] = []

    def write(text: str) -> str:
        name = f"{tmp_path.name}_{len(written)}".replace("-", "_")
        (tmp_path / f"{name}.py").write_text(HEAD + text, "utf-8")
        written.append(name)
        return name

    with forgotten():
        yield write
    for name in written:
        sys.modules.pop(name, None)


def test_what_is_loaded_is_known(write: Write) -> None:
    module = write(
        "@step('t.step')\ndef one() -> int: return 1\n"
        "@workflow('t.leaf')\ndef leaf(at: str = '') -> int: return one()\n"
        "@workflow('t.parent')\ndef parent() -> int: return 1\n"
        "register(Queue('t-leaves', [leaf]), Queue('t-parents', [parent], parents=True),"
        " schedules=[Schedule('t-tick', leaf, '* * * * * *')])\n"
    )
    registry.load([module])
    assert names.QUEUE_OF["t.leaf"] == "t-leaves"
    assert names.ROLE_OF["t.parent"] == "worker"
    assert set(registry.startable()) == {"t.leaf", "t.parent"}
    assert registry.step_names() == ["t.step"]
    assert registry.leaf_queues() - names.LEAF_QUEUES == {"t-leaves"}
    assert "t-tick" in [schedule.name for schedule in registry.schedules()]
    registry.load([module])


def test_workflows_of_dbos_own_decorators_are_known_by_their_names(write: Write) -> None:
    module = write(
        "leaf, parent = DbosWorkflow('t.leaf', label='leaf'), DbosWorkflow('t.parent')\n"
        "register(Queue('t-leaves', [leaf], at_once=None, at_once_everywhere=3, rate=(5, 60)),"
        " Queue('t-parents', [parent], parents=True), steps=['t.step'],"
        " schedules=[Schedule('t-tick', leaf, '* * * * * *')])\n"
    )
    registry.load([module])
    assert (names.QUEUE_OF["t.leaf"], names.ROLE_OF["t.parent"]) == ("t-leaves", "worker")
    assert Worker().leaf_queues & {"t-leaves", "t-parents"} == {"t-leaves"}
    assert "t.step" in names.STEPS["worker"]
    assert (label("t.leaf"), label("t.parent")) == ("leaf", "t.parent")
    limits = {queue.name: queue.limits(ShowcaseSettings()) for queue in registry.queues_of("worker")}
    assert limits["t-leaves"] == {"global_concurrency": 3, "limiter": {"limit": 5, "period": 60}}
    assert limits["t-parents"] == {"worker_concurrency": 8}
    assert "t-tick" in [schedule.name for schedule in registry.schedules_of("worker")]
    assert registry.startable() == {}, "POST /workflows cannot check their arguments"


def test_imported_alone_it_is_no_part_of_the_process(write: Write) -> None:
    module = write("@workflow('t.w')\ndef w() -> int: return 1\nregister(Queue('t-q', [w]))\n")
    __import__(module)
    assert registry.startable() == {}
    assert "t-q" not in [queue.name for queue in registry.queues()]
    assert "t.w" not in names.QUEUE_OF


def test_what_a_module_imports_counts_too(write: Write) -> None:
    inner = write("@workflow('t.w')\ndef w() -> int: return 1\nregister(Queue('t-q', [w]))\n")
    registry.load([write(f"import {inner}\n")])
    assert set(registry.startable()) == {"t.w"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("@workflow('t.w')\ndef w() -> int: return 1\n", "t.w is on no queue"),
        ("register(Queue('fibonacci', []))\n", "The name fibonacci is taken"),
        ("register(Queue('worker-suspects', []))\n", "The name worker-suspects is taken"),
        ("register(Queue('t q', []))\n", "'t q' is no durable name"),
        ("register(Queue('t-q', [DbosWorkflow('chaos.poison')]))\n", "The name chaos.poison is taken"),
        ("register(Queue('t-q', []), role='api')\n", "only workers run workflows that are functions"),
        ("register(steps=['pulse.record'])\n", "The name pulse.record is taken"),
        (
            "register(schedules=[Schedule('t-s', DbosWorkflow('t.w'), '* * * * * *')])\n",
            "Schedule t-s: t.w is on no queue",
        ),
        (
            "@workflow('t.w')\ndef w() -> int: return 1\nregister(Queue('t-q', [w, DbosWorkflow('t.v')]))\n",
            "need a queue of their own",
        ),
        ("register(Queue('t-q', [], at_once=0))\n", "at_once must be at least 1"),
        (
            "@step('t.s', timeout_seconds=1)\nasync def s() -> int: return 1\n",
            "Step t.s: a step with timeout_seconds is not async",
        ),
        ("@step('t.s')\ndef s(): ...\n@step('t.s')\ndef r(): ...\n", "The name t.s is taken"),
        (
            "@workflow('chaos.poison')\ndef w() -> int: return 1\nregister(Queue('t-q', [w]))\n",
            "The name chaos.poison is taken",
        ),
        (
            "@workflow('t.w')\ndef w(*, a: int) -> int: return 1\nregister(Queue('t-q', [w]))\n",
            "must be an ordinary one",
        ),
        (
            "class Odd: ...\n@workflow('t.w')\ndef w(a: Odd) -> int: return 1\nregister(Queue('t-q', [w]))\n",
            "its annotations cannot be read",
        ),
        (
            "import subprocess\n@step('t.s', errors=[subprocess.CalledProcessError])\ndef s(): ...\n",
            "CalledProcessError cannot be made from its text alone",
        ),
        ("from pydantic import SecretStr\n@step('t.s')\ndef s() -> list[SecretStr]: ...\n", "as asterisks"),
        ("@step('t.s')\ndef s() -> object.__class__: ...\n", "Step t.s: its annotations cannot be read"),
        (
            "def inner():\n @step('t.s', timeout_seconds=1)\n def s(): ...\ninner()\n",
            "Step t.s: a step with timeout_seconds is a function of a module",
        ),
        ("@step('t.s', timeout_seconds=0)\ndef s(): ...\n", "timeout_seconds must be positive"),
        ("class Odd: ...\n@step('t.s')\ndef s() -> dict[str, Odd]: ...\n", "Odd"),
        ("from typing import Iterable\n@step('t.s')\ndef s() -> Iterable[int]: yield 1\n", "an iterator"),
        (
            "from pydantic import SecretStr\n"
            "@workflow('t.w')\ndef w(a: SecretStr) -> int: return 1\nregister(Queue('t-q', [w]))\n",
            "as asterisks",
        ),
        (
            "@workflow('t.w')\ndef w(a: int = None) -> int: return 1\nregister(Queue('t-q', [w]))\n",
            "its annotations cannot be read",
        ),
        (
            "@workflow('t.w')\ndef w() -> int: return 1\n"
            "register(Queue('t-q', [w]), schedules=[Schedule('t-s', w, '* * * * * *')])\n",
            "it takes one parameter",
        ),
        (
            "@workflow('t.w')\ndef w(at: str) -> int: return 1\n"
            "register(Queue('t-q', [w]), schedules=[Schedule('pulse', w, '* * * * * *')])\n",
            "The name pulse is taken",
        ),
        *(
            (
                "@workflow('t.w')\ndef w(at: str) -> int: return 1\n"
                f"register(Queue('t-q', [w]), schedules=[Schedule('t-s', w, {rules})])\n",
                f"Schedule t-s: {told}",
            )
            for rules, told in (
                ("'every day'", "'every day' is no cron expression: six fields, seconds first"),
                ("'61 * * * * *'", "'61 . . . . .' is no cron expression"),
                ("'0 0 0 31 2 *'", "the time '0 0 0 31 2 .' never comes"),
                ("'* * * * * *', time_zone='Mars/Base'", "there is no time zone 'Mars/Base'"),
                ("'* * * * * *', time_zone='../etc/passwd'", "there is no time zone"),
                ("'* * * * * *', overlap='forbid'", 'overlap is "allow", "skip" or "buffer_one"'),
                ("'* * * * * *', catch_up='all'", 'catch_up is None, "once" or a positive timedelta'),
                ("'* * * * * *', catch_up=60", "catch_up is None"),
                ("'* * * * * *', queue='t-q'", "t.w has its queue from"),
            )
        ),
        ("register(Queue('t-q', [], at_once_everywhere=0))\n", "at_once_everywhere must be at least 1"),
        (
            "@workflow('t.w')\ndef w() -> int: return 1\nregister(Queue('t-q', [w]), Queue('t-r', [w]))\n",
            "on the queues t-q and t-r",
        ),
    ],
)
def test_a_wrong_module_ends_the_start(write: Write, text: str, told: str) -> None:
    with pytest.raises(ModuleWrong, match=told):
        registry.load([write(text)])


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(ModuleWrong, match="no module no_such_module on the import path"):
        registry.load(["no_such_module"])


@pytest.mark.parametrize(
    ("text", "kind", "why"),
    [
        ("import nothing\n", ModuleWrong, r"ModuleNotFoundError: No module named 'nothing' \({}, line 2\)"),
        ("x = 1\ndef f(:\n", ModuleWrong, r"SyntaxError: invalid syntax \({}, line 3\)"),
        ("print(nothing)\n", ModuleWrong, r"NameError: name 'nothing' is not defined \({}, line 2\)"),
        ("\nint.nothing\n", ModuleWrong, r"AttributeError: .* \({}, line 3\)"),
        ("\nlen(1)\n", ModuleWrong, r"TypeError: .* \({}, line 3\)"),
        ("\nraise OSError('no licences')\n", ModuleFailed, r"OSError: no licences \({}, line 3\)"),
        (
            "import psycopg2\nraise psycopg2.OperationalError('no route')\n",
            ModuleFailed,
            r"OperationalError: no route \({}, line 3\)",
        ),
        ("\nraise RuntimeError('busy')\n", ModuleFailed, r"RuntimeError: busy \({}, line 3\)"),
    ],
)
def test_the_cause_and_place_of_an_import_that_fails_are_named(
    write: Write, text: str, kind: type[Exception], why: str
) -> None:
    """Only what another attempt cannot change is final."""
    module = write(text)
    said = f"{module} cannot be imported: {why.format(f'{module}.py')}"
    with pytest.raises((ModuleWrong, ModuleFailed), match=said) as failed:
        registry.load([module])
    assert failed.type is kind


def test_modules_setting() -> None:
    assert ShowcaseSettings(modules=" shop.orders, stock ").module_names == ["shop.orders", "stock"]
    assert ShowcaseSettings().module_names == []
    with pytest.raises(ValueError, match="modules"):
        ShowcaseSettings(modules="orders.py stock")


def every_kind(when: datetime, pair: tuple[int, str], json: dict[str, float] | None = None) -> set[int]:
    return {pair[0]}


def test_arguments_keep_their_types_through_what_is_stored() -> None:
    signature = Signature(every_kind)
    when = datetime(2026, 1, 2, tzinfo=UTC)
    stored = signature.parse({"when": "2026-01-02T00:00:00Z", "pair": [1, "a"]}, "arguments")
    assert stored == ("2026-01-02T00:00:00Z", [1, "a"], None)
    assert signature.parameters(stored) == (when, (1, "a"), None)
    assert signature.stored(when, (1, "a"), json={"b": 2}) == (when, (1, "a"), {"b": 2.0})
    assert signature.result({3}) == Stored(Revived({3}), '{"$py:set":[3]}')
    assert signature.revive([3]) == {3}, "as releases before stored it"


class Invoice(BaseModel):
    """With a name of its own for clients."""

    total: int = Field(alias="Total")


def invoiced(invoice: Invoice) -> list[Invoice]:
    return [invoice]


def test_aliases_survive_what_is_stored() -> None:
    signature = Signature(invoiced)
    invoice = Invoice(Total=3)
    for stored in (signature.stored(invoice), signature.parse({"invoice": {"Total": 3}}, "arguments")):
        assert signature.parameters(stored) == (invoice,)
    assert signature.result([invoice]) == Stored(Revived([invoice]), '[{"total":3}]')


def test_what_is_stored_by_another_release() -> None:
    signature = Signature(every_kind)
    assert signature.parameters(("2026-01-02T00:00:00Z", [1, "a"]))[2] is None, "a parameter that came later"
    with pytest.raises(ValueError, match="4 arguments are stored, this code takes 3"):
        signature.parameters(("2026-01-02T00:00:00Z", [1, "a"], None, 4))


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "arguments.when"),
        ({"when": "2026-01-02T00:00:00Z", "pair": ["1", "a"]}, "arguments.pair.0"),
        ({"when": "2026-01-02T00:00:00Z", "pair": [1, "a"], "p1": 1}, "arguments.p1"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Signature(every_kind).parse(arguments, "arguments")
    assert caught.value.field == field


# --- values -------------------------------------------------------------------------------------------


class Colour(Enum):
    RED = "red"


class Word(StrEnum):
    YES = "yes"


class Base(BaseModel):
    n: int


class Derived(Base):
    m: int


@dataclass
class Whole:
    """With every type that a result may have where its annotation says so."""

    colour: Colour
    colours: set[Colour]
    by_colour: dict[Colour, bytes]
    by_pair: dict[tuple[int, date], float]
    path: Path
    either: UUID | str
    model: Base
    rest: dict[str, Any]
    moment: datetime
    more: Whole | None = None


class Pair(NamedTuple):
    a: int
    b: Colour


class Number(float):
    pass


NAIVE = datetime(2026, 1, 2)  # noqa: DTZ001
WHOLE = Whole(
    Colour.RED,
    {Colour.RED},
    {Colour.RED: b"\xff\xd8"},
    {(1, date(2026, 1, 2)): float("inf")},
    Path("/tmp/a"),
    str(UUID(int=1)),
    Base(n=1),
    {"tuple": (1, {2}, b"\xff"), "by": {1: Decimal("1.10")}, "uuid": UUID(int=2)},
    datetime(2026, 1, 2, tzinfo=ZoneInfo("Europe/Berlin")),
)


def returning(annotation: Any) -> Signature:
    def function() -> Any: ...

    function.__annotations__["return"] = annotation
    return Signature(function)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Whole, WHOLE),
        (list[Whole], [replace(WHOLE, more=WHOLE)]),
        (Pair, Pair(1, Colour.RED)),
        (Colour, Colour.RED),
        (bytes, b"\xff"),
        (Any, {"a": (1, {2: b"\xff"}), "when": NAIVE}),
        (dict[str, Any] | None, {"a": (1,), "d": timedelta(1)}),
        (UUID | str, str(UUID(int=1))),
        (UUID | str, UUID(int=1)),
        (int | bytes, b"1"),
        (date | datetime, NAIVE),
        (complex, 1j),
    ],
)
def test_a_result_comes_back_as_what_it_was(annotation: Any, value: Any) -> None:
    signature = returning(annotation)
    signature.check_result("t")
    first = signature.result(value)
    again = signature.revive(load(first.text))
    for each in (first.value.value, again):
        assert each == value
        assert type(each) is type(value)
        assert repr(each) == repr(value)
    plain = signature.plain_result(value)
    assert repr(plain.value) == repr(load(first.text))
    assert plain.text == dump(plain.value)


def test_nan_comes_back_wherever_it_is() -> None:
    for annotation in (Any, dict[str, float], dict[str, Any]):
        stored = returning(annotation).result({"a": float("nan")})
        assert math.isnan(stored.value.value["a"])
        assert math.isnan(load(stored.text)["a"])


@pytest.mark.parametrize(
    ("annotation", "value", "named"),
    [
        (Any, Colour.RED, "Colour"),
        (dict[str, Any], {"a": [Word.YES]}, "Word"),
        (Any, {"a": WHOLE}, "Whole"),
        (list[Any], [Base(n=1)], "Base"),
        (Any, Pair(1, Colour.RED), "Pair"),
        (Any, Counter("a"), "Counter"),
        (dict[str, Any], {"a": Counter("a")}, "Counter"),
        (dict[str, int], Counter({Colour.RED: 1}), "Colour"),
        (Mapping[str, Base], OrderedDict(a=Derived(n=1, m=2)), "Derived"),
        (Any, (n for n in [1]), "generator"),
        (Any, {Colour.RED}, "Colour"),
        (Any, {Colour.RED: 1}, "Colour"),
        (Any, object(), "object"),
        (Any, Number(1), "Number"),
        (Base, Derived(n=1, m=2), "Derived"),
        (list[Base], [Derived(n=1, m=2)], "Derived"),
        (int, "one", "does not fit its annotation"),
    ],
)
def test_or_is_refused_with_its_type_named(annotation: Any, value: Any, named: str) -> None:
    with pytest.raises(UnstorableValue, match=named):
        returning(annotation).result(value)


def test_an_annotated_plain_type_takes_its_subclasses() -> None:
    assert returning(float).result(Number(1.5)).text == "1.5"
    assert returning(list[str]).result(["a", Word.YES]).text == '["a","yes"]'


class Two(NamedTuple):
    a: int
    b: int


@pytest.mark.parametrize(
    ("annotation", "value", "back"),
    [
        (dict[str, int], Counter("aab"), {"a": 2, "b": 1}),
        (Mapping[str, int], Counter("aab"), {"a": 2, "b": 1}),
        (dict[str, list[int]], defaultdict(list, a=[1]), {"a": [1]}),
        (dict[str, Any], OrderedDict(a=(1,)), {"a": (1,)}),
        (Mapping[str, Any], OrderedDict(a=(1,)), {"a": (1,)}),
        (tuple[int, int], Two(1, 2), (1, 2)),
        (list[tuple[int, int]], [Two(1, 2)], [(1, 2)]),
        (dict[str, dict[str, int]], {"a": Counter("a")}, {"a": {"a": 1}}),
        (Iterable[int], [1, 2], [1, 2]),
    ],
)
def test_an_annotated_container_takes_its_subclasses(annotation: Any, value: Any, back: Any) -> None:
    signature = returning(annotation)
    signature.check_result("t")
    first = signature.result(value)
    for each in (first.value.value, signature.revive(load(first.text))):
        assert repr(each) == repr(back)


def patient(seconds: float = math.inf) -> None: ...


def test_a_default_that_json_does_not_have() -> None:
    signature = Signature(patient)
    signature.check("t")
    assert signature.parameters(load(dump(signature.parse({}, "arguments")))) == (math.inf,)


def taking(whole: Whole, rest: Any = None) -> None: ...


def test_arguments_of_a_child_come_back_as_what_they_were() -> None:
    signature = Signature(taking)
    stored = load(dump(signature.stored(WHOLE, {"a": {b"\xff"}})))
    assert signature.parameters(stored) == (WHOLE, {"a": {b"\xff"}})
    with pytest.raises(UnstorableValue, match="Colour"):
        signature.stored(WHOLE, Colour.RED)
