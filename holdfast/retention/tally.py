"""How many there are of each name and status."""

from __future__ import annotations

Tally = dict[str, dict[str, int]]
"""Counts by name, then by status; as durable and JSON values hold them."""


def add(into: Tally, more: Tally) -> None:
    """Adds every count of `more` to `into`."""
    for name, by_status in more.items():
        known = into.setdefault(name, {})
        for status, number in by_status.items():
            known[status] = known.get(status, 0) + number


def total(tally: Tally) -> int:
    """How many there are altogether."""
    return sum(number for by_status in tally.values() for number in by_status.values())
