"""A guard against getting slow: ratios within one run, measured side by side, never absolute times.

The margins are wide and the best of a few tries counts, so that other load does not trip them. How fast
Holdfast is, `make bench` says.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from bench.compare import baseline
from bench.compare.holdfast import Holdfast

TRIES = 3
SHARE_OF_BOUND = 0.6
"""50 × fib(30) at once reached 0.8 and more of what the CPUs can do; one worker of two would reach 0.5."""
COMMITS_A_JOB = 60
"""A queued job in turn took the time of some 20 to 30 durable commits of one client."""


@pytest.fixture(scope="module")
def holdfast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Holdfast]:
    """Two workers, every setting at its default."""
    made = Holdfast()
    with made.running(tmp_path_factory.mktemp("speed")):
        yield made


def tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def commit_seconds(holdfast: Holdfast, commits: int = 300) -> float:
    """Median time of one row written and committed to the stack's own PostgreSQL, by one client."""
    found = []
    with closing(holdfast.running_stack.connect_superuser()) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE speed_guard (n integer)")
        connection.commit()
        for number in range(commits):
            begun = time.perf_counter()
            cursor.execute("INSERT INTO speed_guard VALUES (%s)", (number,))
            connection.commit()
            found.append(time.perf_counter() - begun)
        cursor.execute("DROP TABLE speed_guard")
        connection.commit()
    return statistics.median(found)


def test_many_at_once_use_the_cpus(holdfast: Holdfast) -> None:
    shares = []
    for _ in range(TRIES):
        before = baseline.bound(30, 50)
        seconds = holdfast.at_once(30, 50, 60)
        shares.append((before + baseline.bound(30, 50)) / 2 / seconds)
        tell(f"50 × fib(30) at once: {seconds:.2f} s, {shares[-1]:.2f} of the bound")
        if shares[-1] >= SHARE_OF_BOUND:
            return
    assert max(shares) >= SHARE_OF_BOUND, shares


def test_jobs_in_turn_cost_a_few_commits_each(holdfast: Holdfast) -> None:
    found = []
    for _ in range(TRIES):
        commit = commit_seconds(holdfast)
        seconds = holdfast.in_turn(10, 40, 60)
        found.append(seconds / 40 / commit)
        tell(f"40 × fib(10) in turn: {seconds:.2f} s, each the time of {found[-1]:.0f} commits")
        if found[-1] <= COMMITS_A_JOB:
            return
    assert min(found) <= COMMITS_A_JOB, found
