"""Faults of the network between processes and PostgreSQL, which itself runs normally."""

from __future__ import annotations

import time

from holdfast.settings import Settings
from tests.chaos import firewall
from tests.chaos.ground import (
    EXIT_SECONDS,
    FENCED,
    MIDDLE,
    Ground,
    Seen,
    complete,
    declared_dead,
    gone,
    patiently,
    replaced_or_unharmed,
)
from tests.chaos.load import now
from tests.chaos.postgres import probe
from tests.support.compose_stack import ComposeStack
from tests.support.stack import Member

DELAY_SECONDS = 0.2
_PROBED_FROM_SECONDS = 3.0
# A heartbeat may be due a second after the last one, and TCP repeats it after 0.2, 0.6, 1.4, 3 and 6.2 s.
# After a longer cut, the next heartbeat arrives only near the end of the lease.
_HARMLESS_SECONDS = 3.2


def half_open(ground: Ground, *, worker: int, seconds: float) -> Seen:
    stack = _containers(ground)
    lease_seconds = float(Settings.model_fields["lease_seconds"].default)
    victim = ground.worker(worker)
    ground.batch(MIDDLE)
    time.sleep(0.4)
    with firewall.half_open(stack, victim):
        begun = time.time()
        until = time.monotonic() + seconds
        declared_dead(ground, victim.executor_id)
        dead_after = _dead_at(ground, victim) - begun
        assert dead_after <= lease_seconds + 1, f"declared dead only after {dead_after:.2f} s"
        time.sleep(max(0.0, until - time.monotonic()))
    ground.over()
    code = stack.exited(victim, EXIT_SECONDS).code
    assert code == FENCED, f"a fenced worker ended with {code}"
    complete(ground)
    return {"dead_after_seconds": round(dead_after, 2), **gone(ground, victim.executor_id)}


def half_open_briefly(ground: Ground, *, worker: int, seconds: float) -> Seen:
    stack, before = _containers(ground), ground.ids()
    victim = ground.worker(worker)
    ground.batch(MIDDLE)
    time.sleep(0.4)
    begun = time.monotonic()
    with firewall.half_open(stack, victim):
        time.sleep(seconds)
    ground.over()
    held = time.monotonic() - begun
    seen: Seen = {"held_seconds": round(held, 2)}
    if held > _HARMLESS_SECONDS:  # a busy machine turned it into another fault
        complete(ground)
        return {**seen, "longer_than_meant": True}
    _all_the_same(ground, before)
    return seen


def half_open_api(ground: Ground, *, seconds: float) -> Seen:
    stack, begun, before = _containers(ground), now(), ground.ids()
    api = patiently(stack.api)
    with firewall.half_open(stack, api):
        until = time.monotonic() + seconds
        time.sleep(_PROBED_FROM_SECONDS)
        while time.monotonic() < until:
            probe(ground)
            time.sleep(0.3)
    ground.over()
    # After the lease, the workers declare the API dead like a worker. After a shorter cut, TCP may still
    # repeat the next heartbeat only after the lease, so both outcomes are valid.
    seen = replaced_or_unharmed(ground, api)
    ground.journal.write("downtime", **{"from": begun, "to": now()}, reason="API half-open")
    if not seen["replaced"]:
        _all_the_same(ground, before)
    return seen


def reset(ground: Ground, *, api: bool, worker: int, seconds: list[float]) -> Seen:
    stack, begun = _containers(ground), now()
    victim = patiently(stack.api) if api else ground.worker(worker)
    ground.batch(MIDDLE)
    for each in seconds:
        # The container stays the same, while a worker without its lock at two checks gets another executor
        # id.
        with firewall.reset(stack, victim):
            time.sleep(each)
        ground.over()
        time.sleep(0.5)
    if api:
        ground.journal.write("downtime", **{"from": begun, "to": now()}, reason="API reset")
    return replaced_or_unharmed(ground, victim)


def slow_queries(ground: Ground, *, seconds: float) -> Seen:
    stack, before = _containers(ground), ground.ids()
    members = [*ground.workers(), patiently(stack.api)]
    batch_id = ground.batch(MIDDLE)
    counts = dict(ground.load.counts)
    with firewall.slow(stack, members, DELAY_SECONDS):
        begun = time.monotonic()
        status = stack.request("GET", "/executors").status_code
        asked = time.monotonic() - begun
        assert asked >= DELAY_SECONDS, f"a question took {asked:.3f} s: nothing was slowed"
        time.sleep(max(0.0, seconds - asked))
        # Accepting a request takes more round trips than its time limit may allow: a 503 in time is valid,
        # too.
        answers = {name: ground.load.counts[name] - before_it for name, before_it in counts.items()}
    ground.over()
    _all_the_same(ground, before)
    ground.succeeded(batch_id, 60)
    return {"get_status": status, "get_seconds": round(asked, 2), **answers}


def _containers(ground: Ground) -> ComposeStack:
    assert isinstance(ground.stack, ComposeStack)
    return ground.stack


def _all_the_same(ground: Ground, before: set[str]) -> None:
    rows = patiently(ground.stack.executors)
    dead = {name: rows[name]["reason"] for name in before if rows[name]["state"] != "live"}
    assert not dead, f"judged without a reason: {dead}"
    assert ground.ids() == before, "an executor ended"


def _dead_at(ground: Ground, victim: Member) -> float:
    # Containers share the machine's clock.
    rows = ground.stack.query(
        "SELECT extract(epoch FROM taken_over_at)::float8 AS at FROM ops.executors"
        f" WHERE executor_id = '{victim.executor_id}'"
    )
    return float(rows[0]["at"])
