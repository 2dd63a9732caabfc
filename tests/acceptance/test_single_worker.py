"""One worker: it has no peer, and takes its own old work over at its next start. Ticks it missed."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.support import faults, scenes
from tests.support.native_stack import NativeStack
from tests.support.reporting import record
from tests.support.stack import running_stack, wait_for

CATCH_UP_SECONDS = 6.0
LEASE_SECONDS = 20.0
"""So long that waiting for it would show. A server that started within it tells of no death by its locks."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeStack]:
    """One stack for the module."""
    started = NativeStack(
        tmp_path_factory.mktemp("single"),
        workers=1,
        HOLDFAST_LEASE_SECONDS=str(LEASE_SECONDS),
        HOLDFAST_PULSE_CATCH_UP_SECONDS=str(CATCH_UP_SECONDS),
        HOLDFAST_FIBONACCI_MAX_N="36",
    )
    with running_stack(started):
        yield started


def test_missed_ticks_are_caught_up_within_bounds_and_the_rest_are_gaps(stack: NativeStack) -> None:
    worker = stack.workers()[0]
    wait_for(lambda: stack.query("SELECT 1 AS n FROM ops.pulses"), 15, "a first pulse")
    stack.hold(True)  # or the supervisor would start it again at once
    try:
        stack.kill(worker)
        down_at = time.time()
        wait_for(lambda: time.time() - down_at > 16, 30, "three ticks pass", pause_seconds=0.5)
    finally:
        stack.hold(False)
    stack.workers()
    up_at = time.time()
    wait_for(
        lambda: stack.query(
            f"SELECT 1 AS n FROM ops.pulses WHERE extract(epoch FROM scheduled_at) > {up_at} LIMIT 1"
        ),
        15,
        "a tick after it",
    )
    rows = stack.query(
        "SELECT extract(epoch FROM scheduled_at)::float8 AS at, lateness_seconds AS late, status"
        " FROM ops.pulses ORDER BY scheduled_at"
    )
    times = [row["at"] for row in rows]
    assert len(set(times)) == len(times)
    inside = [row for row in rows if down_at + 1 < row["at"] < up_at]
    missed = [at for at in range(int(times[0]), int(times[-1]) + 1, 5) if at not in times]
    assert missed, "16 s without a worker and a window of 6 s leave gaps"
    assert all(down_at - 1 < at < up_at - CATCH_UP_SECONDS + 5 for at in missed), (missed, down_at, up_at)
    assert inside, "nothing was caught up"
    assert all(row["late"] < CATCH_UP_SECONDS + 30 for row in inside), inside
    shown = stack.get("/schedule?limit=100")
    assert shown["missed"] == len(missed)
    assert [gap["missed"] for gap in shown["gaps"]] == [len(missed)]


def test_new_incarnation_takes_over_without_waiting_for_the_lease(stack: NativeStack) -> None:
    before = stack.workers()[0]
    uptime = "SELECT 1 AS n WHERE clock_timestamp() - pg_postmaster_start_time() > make_interval(secs => {})"
    wait_for(lambda: stack.query(uptime.format(LEASE_SECONDS)), LEASE_SECONDS + 5, "the server is settled")
    numbers = [35, 20, 35]
    batch_id = stack.start_batch(numbers=numbers)
    wait_for(lambda: stack.busy_children(before), 15, "a child at work")
    begun = time.monotonic()
    stack.crash(before)
    after = stack.workers()[0]
    ready = time.monotonic() - begun
    moved = wait_for(
        lambda: (rows := stack.handovers([batch_id])) and rows[0]["to_executor"] and rows, 20, "taken over"
    )
    record("single worker killed to ready again, seconds", ready)
    record("single worker killed to its work claimed again, seconds", time.monotonic() - begun)
    assert moved[0]["reason"] != "heartbeat late", "it waited for the lease"
    assert (moved[0]["kind"], moved[0]["to_executor"]) == ("takeover", after.executor_id)
    batch = stack.finished_batch(batch_id, 60)
    scenes.check_batch(batch, numbers)
    faults.check_effects(stack, batch)
