"""The table and the page of `bench.attached`: what the samples show, and how sure that is."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

KINDS = ("plain", "attached")
_RESAMPLES = 2000


def _by_kind() -> dict[str, list[float]]:
    return {kind: [] for kind in KINDS}


@dataclass
class Samples:
    """What the rounds measured, by kind; one entry for each pair of processes."""

    start_seconds: dict[str, list[float]] = field(default_factory=_by_kind)
    step_seconds: dict[str, list[float]] = field(default_factory=_by_kind)
    python_seconds: dict[str, list[float]] = field(default_factory=_by_kind)
    """CPU time of the workflow's thread in one step."""
    backend_seconds: dict[str, list[float]] = field(default_factory=_by_kind)
    """CPU time of DBOS's backends in PostgreSQL in one step."""
    memory_mb: dict[str, list[float]] = field(default_factory=_by_kind)
    helper_mb: list[float] = field(default_factory=list)
    transactions: dict[str, list[float]] = field(default_factory=_by_kind)

    @property
    def cpu_seconds(self) -> dict[str, list[float]]:
        """CPU time of the thread and the backends in one step."""
        parts = self.python_seconds, self.backend_seconds
        return {
            kind: [sum(pair) for pair in zip(*(part[kind] for part in parts), strict=True)] for kind in KINDS
        }


def interquartile_mean(values: Sequence[float]) -> float:
    """Returns the mean of the middle half: blocks that other work disturbed count for nothing."""
    ordered = sorted(values)
    quarter = len(ordered) // 4
    return statistics.fmean(ordered[quarter : len(ordered) - quarter])


def cost(values: dict[str, list[float]]) -> str:
    """Returns by how much attached exceeds plain, with the interval that holds 95 of 100 resamples.

    A resample draws as many pairs of processes as there are, with repetitions: two starts of the same program
    differ by more than the blocks of one.
    """
    ratios = [attached / plain for attached, plain in zip(values["attached"], values["plain"], strict=True)]
    draw = random.Random(1)
    resampled = sorted(statistics.fmean(draw.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLES))
    low, high = resampled[_RESAMPLES // 40], resampled[-_RESAMPLES // 40]
    middle = statistics.fmean(ratios)
    return f"{(middle - 1) * 100:+.1f} % (95 %: {(low - 1) * 100:+.1f} to {(high - 1) * 100:+.1f})"


def table(samples: Samples) -> str:
    """Returns the table of the results."""
    median = statistics.median

    start = {kind: median(samples.start_seconds[kind]) for kind in KINDS}
    slower = median(
        a - p for a, p in zip(samples.start_seconds["attached"], samples.start_seconds["plain"], strict=True)
    )
    own = {kind: median(samples.memory_mb[kind]) for kind in KINDS}
    helper = median(samples.helper_mb)
    idle = {kind: median(samples.transactions[kind]) for kind in KINDS}
    more = own["attached"] - own["plain"]
    rows = [
        _cost_row("a step: CPU time", samples.cpu_seconds, "5 %"),
        _cost_row("of that, Python", samples.python_seconds),
        _cost_row("of that, PostgreSQL", samples.backend_seconds),
        _cost_row("a step: time", samples.step_seconds),
        ("memory: the process", *(f"{own[kind]:.1f} MB" for kind in KINDS), f"{more:.1f} MB", ""),
        ("memory: the watchdog", "", f"{helper:.1f} MB", f"{helper:.1f} MB", ""),
        ("memory: both", "", "", f"{more + helper:.1f} MB", "12 MB"),
        (
            "idle: transactions per second",
            *(f"{idle[kind]:.1f}" for kind in KINDS),
            f"{idle['attached'] - idle['plain']:.1f}",
            "6",
        ),
        ("start", *(f"{start[kind]:.2f} s" for kind in KINDS), f"{slower:.2f} s", ""),
    ]
    head = "| what | plain | attached | cost | goal |\n|---|--:|--:|--:|--:|\n"
    return head + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cost_row(what: str, values: dict[str, list[float]], goal: str = "") -> tuple[str, ...]:
    medians = (f"{statistics.median(values[kind]) * 1000:.2f} ms" for kind in KINDS)
    return (what, *medians, cost(values), goal)


PAGE = """\
# What attaching costs

`python -m bench.attached --write` writes this page. It compares a plain DBOS application
(`bench/attached_app.py`) with the same application under `holdfast run`.

{table}
- DBOS {dbos}, Python {python}, {cpus} CPUs, load average {load} at the end (other work runs on this machine),
  PostgreSQL on the same machine without fsync.
- Medians of {pairs} pairs of rounds. A pair starts one process of each kind, in turn the plain or the
  attached one first, on two databases of one server.
- **A step** returns its argument and does nothing else. {blocks} workflows of {steps} steps run in each
  process of a pair, in turn; the cost of a step in a process is the mean of the middle half of them. The
  interval holds 95 of 100 resamples of the pairs. CPU time is that of the thread that runs the workflow, and
  of DBOS's backends in PostgreSQL: other work on the machine changes it less than the time.
- **Memory** is what only this process uses (`Private_*` in `smaps_rollup`), after it ran its steps.
- **Idle transactions** are counted by PostgreSQL for {idle:g} s, {settle:g} s after the last step: a queue
  without work polls more and more rarely while notifications arrive.
- **Start** is the time from the command until `DBOS.launch()` has returned.
"""
