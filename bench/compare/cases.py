"""The cases that every contender runs. Each returns plain values; ratios are of the same minute."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.compare import baseline
from bench.compare.contender import Contender
from bench.compare.processes import NotMeasured
from bench.compare.summaries import percentile

LONG_N, LONG_COUNT = 33, 10
SHORT_N, SHORT_COUNT, SHORT_TRIES = 10, 40, 3
MANY_COUNT = 50
TINY_N, TINY_COUNT = 10, 1000


@dataclass
class Context:
    """The parameters of a case."""

    round: int
    generator: random.Random
    samples: int = 60
    """Pickups a round."""
    takeover_bound_seconds: float = 90.0
    """After that it is "never"."""
    home: Path = Path()
    """Where a case that starts a stack of its own may put it."""


@dataclass(frozen=True)
class Case:
    """One case: its name, what the report calls it, and how long it may take."""

    name: str
    title: str
    run: Callable[[Any, Context], dict[str, Any]]
    bound_seconds: float
    optional: bool = False
    """For peers it runs only when it is asked for by name."""
    holdfast_only: bool = False
    alone: bool = False
    """Starts stacks of its own."""


def in_turn_long(contender: Contender, _: Context) -> dict[str, Any]:
    """10 × fib(33) in turn, over the same calls in one plain process."""
    before = baseline.pure(LONG_N, LONG_COUNT)
    seconds = contender.in_turn(LONG_N, LONG_COUNT, 120)
    pure = (before + baseline.pure(LONG_N, LONG_COUNT)) / 2
    return {
        "seconds": seconds,
        "pure_seconds": pure,
        "over_seconds": seconds - pure,
        "over_ratio": seconds / pure - 1,
    }


def in_turn_short(contender: Contender, _: Context) -> dict[str, Any]:
    """40 × fib(10) in turn."""
    tries = [contender.in_turn(SHORT_N, SHORT_COUNT, 60) for _ in range(SHORT_TRIES)]
    return {"seconds": sorted(tries)[len(tries) // 2], "tries": tries}


def _at_once(contender: Contender, n: int) -> dict[str, Any]:
    before = baseline.bound(n, MANY_COUNT)
    seconds = contender.at_once(n, MANY_COUNT, 240)
    bound = (before + baseline.bound(n, MANY_COUNT)) / 2
    return {"seconds": seconds, "bound_seconds": bound, "of_bound": bound / seconds}


def at_once_30(contender: Contender, _: Context) -> dict[str, Any]:
    """50 × fib(30) concurrently, of the bound."""
    return _at_once(contender, 30)


def at_once_33(contender: Contender, _: Context) -> dict[str, Any]:
    """50 × fib(33) concurrently, of the bound."""
    return _at_once(contender, 33)


def pickup(contender: Contender, context: Context) -> dict[str, Any]:
    """From a request to the job's body, at idle."""
    pauses = [context.generator.uniform(0.05, 0.35) for _ in range(context.samples)]
    found = contender.pickup(pauses, 300)
    # A body may begin before the client's call returns: then nothing was waited for.
    after = [max(0.0, 1000 * (job.started - job.accepted)) for job in found]
    whole = [1000 * (job.started - job.sent) for job in found]
    return {
        "p50_ms": percentile(after, 0.5),
        "p95_ms": percentile(after, 0.95),
        "request_p50_ms": percentile(whole, 0.5),
        "request_p95_ms": percentile(whole, 0.95),
        "after_accepted_ms": [round(value, 2) for value in after],
        "after_sent_ms": [round(value, 2) for value in whole],
    }


def tiny(contender: Contender, _: Context) -> dict[str, Any]:
    """1,000 tiny jobs through the full path."""
    seconds = contender.at_once(TINY_N, TINY_COUNT, 120)
    return {"seconds": seconds, "jobs_a_second": TINY_COUNT / seconds}


def takeover(contender: Contender, context: Context) -> dict[str, Any]:
    """SIGKILL of a worker in the middle of a job, until the body runs on another."""
    found: list[float] = []
    bound = context.takeover_bound_seconds
    for _ in range(contender.takeovers):
        seconds = contender.takeover(context.generator.uniform(0.1, 0.4), bound)
        if seconds is None:
            return {"never_within_seconds": bound, "samples": found}
        found.append(seconds)
    if not found:
        raise NotMeasured("no kill")
    return {"seconds": sorted(found)[len(found) // 2], "samples": found}


CASES: tuple[Case, ...] = (
    Case("in_turn_long", "10 × fib(33) in turn", in_turn_long, 200),
    Case("in_turn_short", "40 × fib(10) in turn", in_turn_short, 120),
    Case("at_once_30", "50 × fib(30) concurrently", at_once_30, 120),
    Case("at_once_33", "50 × fib(33) concurrently", at_once_33, 300, optional=True),
    Case("pickup", "pickup at idle", pickup, 320),
    Case("tiny", "1,000 tiny jobs", tiny, 150),
    Case("takeover", "taken over after SIGKILL", takeover, 600),
)
