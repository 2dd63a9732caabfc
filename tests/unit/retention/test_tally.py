"""Counts by name and status."""

from __future__ import annotations

from holdfast.retention import tally


def test_counts_add_up_and_the_added_stay_as_they_are() -> None:
    into: tally.Tally = {"a": {"SUCCESS": 2}}
    more: tally.Tally = {"a": {"SUCCESS": 1, "ERROR": 4}, "b": {"SUCCESS": 3}}
    tally.add(into, more)
    assert into == {"a": {"SUCCESS": 3, "ERROR": 4}, "b": {"SUCCESS": 3}}
    tally.add(into, more)
    assert more == {"a": {"SUCCESS": 1, "ERROR": 4}, "b": {"SUCCESS": 3}}, "nothing of it is shared"
    assert tally.total(into) == 18
    assert tally.total({}) == 0
