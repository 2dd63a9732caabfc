"""The goals, each judged from the records alone: reached or missed, with the result."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.compare.summaries import Record, Summary, ratios, records_of, slope, summary_of

Records = Sequence[Record]

HOLDFAST = "holdfast"
GROWN = "holdfast-1m"
PEERS = (
    "dbos",
    "dbos-tuned",
    "temporal",
    "temporal-tuned",
    "procrastinate",
    "procrastinate-tuned",
    "celery",
    "celery-tuned",
)
TUNED = ("dbos-tuned", "temporal-tuned", "procrastinate-tuned", "celery-tuned")

HANDFUL = 10
GROWTH = 0.2


@dataclass(frozen=True)
class Verdict:
    """``reached`` is None if there is no result; then ``result`` says why."""

    reached: bool | None
    result: str


@dataclass(frozen=True)
class Goal:
    """What must hold, and the function that judges it."""

    text: str
    judge: Callable[[Records], Verdict]


def _one(records: Records, case: str, key: str, holds: Callable[[float], bool], shown: str) -> Verdict:
    """One value of Holdfast's, by the median of its rounds."""
    found = summary_of(records, HOLDFAST, case, key)
    if not isinstance(found, Summary):
        return Verdict(None, f"not measured: {found.why}")
    middle, low, high = (shown.format(number) for number in (found.median, found.low, found.high))
    return Verdict(holds(found.median), middle if low == high else f"{middle} ({low} to {high})")


def ahead(case: str, key: str, shown: str) -> Callable[[Records], Verdict]:
    """More than every peer that was measured, by the median of the ratios within rounds."""

    def judge(records: Records) -> Verdict:
        own = summary_of(records, HOLDFAST, case, key)
        if not isinstance(own, Summary):
            return Verdict(None, f"not measured: {own.why}")
        against = {peer: found for peer in PEERS if (found := ratios(records, case, key, HOLDFAST, peer))}
        if not against:
            return Verdict(None, f"{shown.format(own.median)}, but no peer in the same round")
        peer = min(against, key=lambda name: statistics.median(against[name]))
        ratio = statistics.median(against[peer])
        best = summary_of(records, peer, case, key)
        theirs = shown.format(best.median) if isinstance(best, Summary) else "?"
        return Verdict(
            ratio > 1,
            f"{shown.format(own.median)}; nearest peer {peer} with {theirs} (ratio in the round {ratio:.2f}; "
            f"{len(against)} of {len(PEERS)} peers)",
        )

    return judge


def of_temporal(records: Records) -> Verdict:
    """40 jobs in turn: a fifteenth of Temporal's as documented."""
    found = ratios(records, "in_turn_short", "seconds", "temporal", HOLDFAST)
    if not found:
        return Verdict(None, "not measured beside Temporal in one round")
    ratio = statistics.median(found)
    return Verdict(
        ratio >= 15, f"Temporal takes {ratio:.1f} times as long ({min(found):.1f} to {max(found):.1f})"
    )


def takeover(records: Records) -> Verdict:
    """A tenth of the best tuned peer's."""
    own = summary_of(records, HOLDFAST, "takeover", "seconds")
    if not isinstance(own, Summary):
        return Verdict(None, f"not measured: {own.why}")
    best = {
        peer: found.median
        for peer in TUNED
        if isinstance(found := summary_of(records, peer, "takeover", "seconds"), Summary)
    }
    if not best:
        return Verdict(None, f"{own.median:.2f} s, but no tuned peer took over")
    peer = min(best, key=lambda name: best[name])
    share = own.median / best[peer]
    return Verdict(share <= 0.1, f"{own.median:.2f} s, {share:.3f} of {peer}'s {best[peer]:.2f} s")


def idle(records: Records) -> Verdict:
    """Transactions per second that one more idle worker costs."""
    found = [
        slope([(float(workers), rate) for workers, rate in record["idle_transactions"].items()])
        for record in records_of(records, HOLDFAST, "workers")
        if "idle_transactions" in record
    ]
    if not found:
        return Verdict(None, "not measured")
    rate = statistics.median(found)
    return Verdict(rate <= 25, f"{rate:.1f} per second per worker")


def enqueueing(records: Records) -> Verdict:
    """Statements that enqueueing 1,000 costs more than enqueueing 50."""
    found = summary_of(records, HOLDFAST, "enqueue", "more_round_trips")
    if not isinstance(found, Summary):
        return Verdict(None, f"not measured: {found.why}")
    return Verdict(found.median <= HANDFUL, f"{found.median:.0f} round trips more")


GROWING = (
    ("in_turn_short", "seconds", False),
    ("in_turn_long", "seconds", False),
    ("at_once_30", "of_bound", True),
    ("pickup", "p50_ms", False),
    ("pickup", "p95_ms", False),
    ("tiny", "jobs_a_second", True),
    ("takeover", "seconds", False),
)


def growth(records: Records) -> Verdict:
    """Every result with a million finished workflows stored, within 20 % of the one without."""
    worse = {}
    for case, key, more_is_better in GROWING:
        found = ratios(records, case, key, GROWN, HOLDFAST)
        if found:
            ratio = statistics.median(found)
            worse[f"{case} {key}"] = 1 / ratio if more_is_better else ratio
    if not worse:
        return Verdict(None, "not measured")
    listed = ", ".join(f"{name} {ratio:.2f}" for name, ratio in worse.items())
    return Verdict(max(worse.values()) <= 1 + GROWTH, f"times as much as without: {listed}")


def both(case: str, limits: Sequence[tuple[str, float, str]]) -> Callable[[Records], Verdict]:
    """Several values of one case, each at most its limit."""

    def judge(records: Records) -> Verdict:
        verdicts = [
            _one(records, case, key, lambda found, limit=limit: found <= limit, shown)
            for key, limit, shown in limits
        ]
        text = "; ".join(verdict.result for verdict in verdicts)
        if any(verdict.reached is None for verdict in verdicts):
            return Verdict(None, text)
        return Verdict(all(verdict.reached for verdict in verdicts), text)

    return judge


GOALS: tuple[Goal, ...] = (
    Goal(
        "50 × fib(30) concurrently: ahead of every peer",
        ahead("at_once_30", "of_bound", "{:.2f} of the bound"),
    ),
    Goal(
        "50 × fib(33) concurrently: at least 0.95 of the bound",
        lambda r: _one(r, "at_once_33", "of_bound", lambda v: v >= 0.95, "{:.3f}"),
    ),
    Goal(
        "10 × fib(33) in turn: at most 3 % over pure compute",
        lambda r: _one(r, "in_turn_long", "over_ratio", lambda v: v <= 0.03, "{:+.1%}"),
    ),
    Goal(
        "40 × fib(10) in turn: at most 0.2 s",
        lambda r: _one(r, "in_turn_short", "seconds", lambda v: v <= 0.2, "{:.2f} s"),
    ),
    Goal("40 × fib(10) in turn: a fifteenth of Temporal's", of_temporal),
    Goal(
        "pickup at idle: p50 at most 5 ms, p95 at most 10 ms",
        both("pickup", (("p50_ms", 5, "{:.1f} ms"), ("p95_ms", 10, "{:.1f} ms"))),
    ),
    Goal("at most 25 idle transactions per second per worker", idle),
    Goal("1,000 tiny jobs: ahead of every peer", ahead("tiny", "jobs_a_second", "{:.0f} per second")),
    Goal(
        "5,000 workflows without a step at concurrency 100: at least 1,000 per second with two workers",
        lambda r: _one(r, "stepless", "workflows_a_second", lambda v: v >= 1000, "{:.0f} per second"),
    ),
    Goal(f"enqueueing 1,000: a handful (at most {HANDFUL}) of round trips more than 50", enqueueing),
    Goal("takeover after SIGKILL: a tenth of the best tuned peer's, or less", takeover),
    Goal(
        "API while the CPUs are saturated: /readyz p99 at most 50 ms, submit p99 at most 100 ms",
        both("api", (("readyz_p99_ms", 50, "/readyz {:.0f} ms"), ("submit_p99_ms", 100, "submit {:.0f} ms"))),
    ),
    Goal(
        "API while the CPUs are saturated: 200 requests per second sustained",
        lambda r: _one(r, "api", "answered_a_second", lambda v: v >= 198, "{:.0f} per second"),
    ),
    Goal(
        "memory: worker without its children at most 120 MB, API at most 120 MB",
        both(
            "memory", (("worker_megabytes", 120, "worker {:.0f} MB"), ("api_megabytes", 120, "API {:.0f} MB"))
        ),
    ),
    Goal(
        "the image at most 200 MB over its base; ready at most 10 s after a warm `docker compose up`",
        both(
            "containers",
            (("image_over_base_megabytes", 200, "{:.0f} MB"), ("ready_seconds", 10, "ready after {:.1f} s")),
        ),
    ),
    Goal("the same results with a million finished workflows, within 20 %", growth),
)
