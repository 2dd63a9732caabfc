"""Finds the missing ticks of the schedule that have no excuse. Pure functions of times."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from datetime import datetime, timedelta

from holdfast.audit.journal import Interval

# A worker with a shorter life may have died before it registered the schedule.
_SETTLED = timedelta(seconds=10)


def unexcused(
    missing: Iterable[datetime],
    *,
    workers: list[Interval],
    downtimes: list[Interval],
    tick: timedelta,
    window: timedelta,
) -> list[datetime]:
    """Returns missing ticks that a worker should have run in time, or backfilled at its start.

    ``workers``: their lifetimes; ``window``: how far back a start backfills. Ticks inside ``downtimes`` are
    excused.
    """
    settled = [(begun, ended) for begun, ended in workers if ended - begun > _SETTLED]
    present = merged([(begun, ended - tick) for begun, ended in settled])
    down = merged([(begun - tick, ended) for begun, ended in downtimes])
    starts = sorted(begun for begun, _ in settled)
    found = []
    for moment in missing:
        if inside(moment, down):
            continue
        after = bisect_right(starts, moment)
        caught_up = after < len(starts) and starts[after] < moment + window - 2 * tick
        if caught_up or inside(moment, present):
            found.append(moment)
    return found


def merged(intervals: list[Interval]) -> list[Interval]:
    """Merges intervals into disjoint ones, in order."""
    result: list[Interval] = []
    for begun, ended in sorted(intervals):
        if result and begun <= result[-1][1]:
            result[-1] = (result[-1][0], max(ended, result[-1][1]))
        else:
            result.append((begun, ended))
    return result


def inside(moment: datetime, ordered: list[Interval]) -> bool:
    """Whether one of the ordered, disjoint intervals contains the moment."""
    place = bisect_right(ordered, moment, key=lambda interval: interval[0]) - 1
    return place >= 0 and moment <= ordered[place][1]
