"""Which arguments a workflow takes, as its process publishes it and claims by it."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dbos import DBOS, DBOSConfiguredInstance
from dbos._dbos import _get_or_create_dbos_registry

from holdfast.dbos_adapter import claimable
from holdfast.dbos_adapter.registrations import arguments_of, takes_of, why_unfit


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    registered = _get_or_create_dbos_registry().workflow_info_map
    before = dict(registered)
    yield
    registered.clear()
    registered.update(before)


def with_session(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return function(*args, session=object(), **kwargs)

    return inner


def positional(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(self: Any, day: str) -> Any:
        return function(self, day, object())

    return inner


def test_a_decorator_that_supplies_an_argument_decides_what_is_taken() -> None:
    @DBOS.workflow(name="arguments.wrapped")
    @with_session
    def _work(day: str, *, session: object) -> None:
        """Its caller passes no session."""

    takes = arguments_of("arguments.wrapped")
    assert takes == {"any_position": True, "any_name": True}
    assert why_unfit(takes, ["today"], {}) is None


def test_the_owner_is_no_argument_whichever_way_it_is_passed() -> None:
    class _Shop(DBOSConfiguredInstance):
        @DBOS.workflow(name="arguments.plain")
        def plain(self, day: str) -> None:
            """Takes its owner by itself."""

        @DBOS.workflow(name="arguments.any")
        @with_session
        def any(self, day: str, *, session: object) -> None:
            """The decorator takes the owner with all others."""

        @DBOS.workflow(name="arguments.named")
        @positional
        def named(self, day: str, session: object) -> None:
            """The decorator takes the owner as its first parameter."""

    DBOS.dbos_class("ArgumentsShop")(_Shop)
    assert arguments_of("arguments.plain") == {"names": ["day"], "needs": ["day"]}
    assert arguments_of("arguments.any") == {"any_position": True, "any_name": True}
    assert arguments_of("arguments.named") == {"names": ["day"], "needs": ["day"]}


def test_the_name_of_a_parameter_with_a_position_only_is_free_for_others() -> None:
    def work(first: int, /, second: int = 0, **more: int) -> None: ...

    def strict(first: int, /) -> None: ...

    takes = takes_of(_parameters(work))
    assert takes["only_position"] == ["first"]
    assert why_unfit(takes, [1], {"first"}) is None
    assert why_unfit(takes, [1, 2], {"second"}) == "second is given by position and by name"
    assert why_unfit(takes, [], {"first"}) == "first is missing"
    assert why_unfit(takes_of(_parameters(strict)), [1], {"first"}) == "it has no parameter first"


def test_a_workflow_whose_signature_cannot_be_read_costs_no_other() -> None:
    @DBOS.workflow(name="arguments.odd")
    def _odd() -> None: ...

    @DBOS.workflow(name="arguments.even")
    def _even(day: str) -> None: ...

    def fails() -> Any:
        raise ZeroDivisionError

    _odd.takes = fails  # type: ignore[attr-defined]
    assert arguments_of("arguments.odd") is None
    runnable = claimable.Claimable(by_arguments=True).runnable()
    assert {"arguments.odd", "arguments.even"} <= set(runnable.names)
    assert set(json.loads(runnable.takes)) >= {"arguments.even"}


def test_no_thread_sees_the_lists_of_before_a_registration(monkeypatch: pytest.MonkeyPatch) -> None:
    DBOS.workflow(name="arguments.seen")(lambda: None)
    asked = claimable.Claimable(by_arguments=True)
    seen: list[list[str]] = []

    def meanwhile(name: str) -> None:
        monkeypatch.setattr(claimable, "arguments_of", lambda name: None)
        seen.append(asked.runnable().names)

    monkeypatch.setattr(claimable, "arguments_of", meanwhile)
    asked.runnable()
    assert "arguments.seen" in seen[0]


def _parameters(function: Callable[..., Any]) -> Any:
    return inspect.signature(function).parameters.values()
