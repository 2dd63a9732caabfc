"""The one loop in which commands wait: what it waits out, what it doesn't, and when it gives up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from holdfast import errors
from holdfast.api.problems import _kebab
from holdfast.cli import waiting
from holdfast.cli.shown import Refused, Unreachable
from holdfast.cli.waiting import poll_until


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_POLL_SECONDS", 0.001)


def answers(*given: str | Exception) -> Callable[[float], str]:
    left = list(given)

    def look(_: float) -> str:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return look


def test_what_passes_is_waited_out_and_named() -> None:
    unavailable = ("database-unavailable", "statement-timeout", "draining", "backlog-full")
    away = (
        Unreachable("refused"),
        *(Refused(503, "no", kind) for kind in unavailable),
        Refused(429, "too many"),
    )
    seen = poll_until(answers(*away, "there"), seconds=60)
    assert [next(seen)[1] for _ in away] == [
        "API away",
        "database away",
        "database slow",
        "API restarts",
        "API busy",
        "API busy",
    ]
    assert next(seen) == ("there", "")


def test_each_kind_of_unavailability_has_its_words() -> None:
    kinds = [each for each in vars(errors).values() if isinstance(each, type)]
    names = {_kebab(each.__name__) for each in kinds if issubclass(each, errors.DatabaseUnavailable)}
    assert names <= set(waiting._AWAY)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 500])
def test_what_waiting_does_not_change_is_raised(status: int) -> None:
    with pytest.raises(Refused) as refused:
        list(poll_until(answers("first", Refused(status, "no")), seconds=60))
    assert refused.value.status == status


def test_there_is_one_poll_whatever_the_timeout() -> None:
    lefts: list[float] = []
    assert len(list(poll_until(lefts.append, seconds=-1))) == 1
    assert lefts == [0.0]
    list(poll_until(lefts.append, seconds=0.05))
    assert len(lefts) > 3 and 0 <= lefts[-1] < lefts[1] <= 0.05
