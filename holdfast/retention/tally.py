"""Counts of workflows by name and status."""

from __future__ import annotations

Tally = dict[str, dict[str, int]]
"""Counts by name, then by status, in a form that durable and JSON values can hold."""


def add(into: Tally, more: Tally) -> None:
    """Adds every count of `more` to `into`."""
    for name, by_status in more.items():
        known = into.setdefault(name, {})
        for status, number in by_status.items():
            known[status] = known.get(status, 0) + number


def total(tally: Tally) -> int:
    """Returns the sum of all counts."""
    return sum(number for by_status in tally.values() for number in by_status.values())
