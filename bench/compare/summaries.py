"""The report's arithmetic: medians with ranges, percentiles, and ratios within one round."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Record = dict[str, Any]
"""One case of one contender in one round: contender, case, round, run, and the case's own values."""


class Summary(NamedTuple):
    """A median with its range."""

    median: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Missing:
    """Why there is no result."""

    why: str


def summarize(values: Iterable[float]) -> Summary:
    """Median, smallest, largest. Raises ``ValueError`` without values."""
    found = sorted(values)
    if not found:
        raise ValueError("no values")
    return Summary(statistics.median(found), found[0], found[-1], len(found))


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank: a value that occurred. ``share`` from 0 to 1; ``ValueError`` without values."""
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, math.ceil(len(values) * share) - 1)]


def records_of(records: Iterable[Record], contender: str, case: str) -> list[Record]:
    """That contender's records of a case, in the order of their rounds."""
    found = [r for r in records if r["contender"] == contender and r["case"] == case]
    return sorted(found, key=lambda record: record["round"])


def summary_of(records: Iterable[Record], contender: str, case: str, key: str) -> Summary | Missing:
    """Summarizes one value of a case over the rounds, or says why there is none."""
    found = records_of(records, contender, case)
    values = [record[key] for record in found if record.get(key) is not None]
    if values:
        return summarize(values)
    failed = [record["failed"] for record in found if "failed" in record]
    return Missing(failed[-1] if failed else "did not run")


def samples(records: Iterable[Record], contender: str, case: str, key: str) -> list[float]:
    """All samples of a case, of all rounds together."""
    return [sample for record in records_of(records, contender, case) for sample in record.get(key, ())]


def ratios(records: Sequence[Record], case: str, key: str, first: str, second: str) -> list[float]:
    """``first`` over ``second``, once for each round that both took part in. Rounds of different runs
    are never compared: the machine may have been another one."""
    below = {(r["run"], r["round"]): r.get(key) for r in records_of(records, second, case)}
    found = []
    for record in records_of(records, first, case):
        over, under = record.get(key), below.get((record["run"], record["round"]))
        if over is not None and under:
            found.append(over / under)
    return found


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least squares: what one more x adds to y. ``ValueError`` with fewer than two different x."""
    return statistics.linear_regression([x for x, _ in points], [y for _, y in points]).slope
