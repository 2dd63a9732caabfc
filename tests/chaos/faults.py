"""Faults of processes. Each fault injects its harm, undoes it if nothing else does, and returns observations.

A fault raises ``AssertionError`` if an observation breaks a promise. The caller waits for the recovery.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.chaos import clock, disk, hands, hosts, network, poison, postgres, waits
from tests.chaos.endings import watched
from tests.chaos.ground import (
    GRACE_SECONDS,
    MIDDLE,
    Fault,
    Ground,
    Seen,
    complete,
    declared_dead,
    gone,
    patiently,
)
from tests.chaos.load import now
from tests.support.compose_stack import ComposeStack
from tests.support.stack import Member


def kill_worker(ground: Ground, *, worker: int, delay: float) -> Seen:
    victim = ground.worker(worker)
    ground.batch(MIDDLE)
    time.sleep(delay)
    with watched(ground, victim):
        ground.stack.crash(victim)
        ground.over()
    declared_dead(ground, victim.executor_id)
    return gone(ground, victim.executor_id)


def kill_api(ground: Ground, *, delay: float, posts: int) -> Seen:
    victim = patiently(ground.stack.api)
    body = {"numbers": [20, 21], "method": "doubling"}
    with ThreadPoolExecutor(posts) as threads:
        keys = [ground.key("kill-api") for _ in range(posts)]
        asked = [threads.submit(ground.load.post, "/fibonacci/batches", body, key) for key in keys]
        time.sleep(delay)
        with watched(ground, victim):
            ground.stack.crash(victim)
            ground.over()
        answered = sum(1 for future in asked if future.result())
    return {"answered": answered, "of": posts}


def rolling_restart(ground: Ground) -> Seen:
    ground.batch(MIDDLE)
    took = []
    for member in [*ground.workers(), patiently(ground.stack.api)]:
        with watched(ground, member):
            code, seconds = hands.stop_seconds(ground.stack, member, GRACE_SECONDS + 10)
        ground.over()
        ground.journal.write("exit", who=member.executor_id, code=code, seconds=round(seconds, 2))
        took.append(seconds)
        assert code == 0, f"{member.name} ended with {code}"
        assert not ground.stack.pending_under(member.executor_id), f"{member.executor_id} left work behind"
        complete(ground)
    return {"slowest_stop_seconds": round(max(took), 2)}


def rolling_upgrade(ground: Ground) -> Seen:
    """Starts new workers, stops the old ones, replaces the API, as docs/operate/upgrading.md describes."""
    stack = ground.stack
    assert isinstance(stack, ComposeStack)
    old, api = ground.workers(), patiently(stack.api)
    ground.batch(MIDDLE)
    hands.newer_image(stack)
    stack.compose("run", "--rm", "--no-deps", "-T", "migrate")
    up = ("up", "--detach", "--wait", "--no-build")
    workers = f"worker={2 * stack.worker_count}"
    stack.compose(*up, "--no-deps", "--no-recreate", "--scale", workers, "worker")
    took = []
    for member in old:
        with watched(ground, member):
            at = time.time()
            stack.docker("stop", member.container)
        took.append(_orderly(ground, member, at))
        stack.docker("rm", member.container)
    with watched(ground, api):
        at = time.time()
        stack.compose(*up)
    _orderly(ground, api, at)
    ground.over()
    complete(ground)
    assert not {member.executor_id for member in old} & ground.ids(), "an old worker is still there"
    return {"slowest_stop_seconds": round(max(took), 2)}


def _orderly(ground: Ground, member: Member, at: float) -> float:
    """Returns the seconds from ``at`` (epoch) to the end of a stop, which must exit with 0 and no work."""
    ended = ground.stack.exited(member, 5)
    seconds = round(ended.at - at, 2)
    ground.journal.write("exit", who=member.executor_id, code=ended.code, seconds=seconds)
    assert ended.code == 0, f"{member.name} ended with {ended.code}"
    assert not patiently(lambda: ground.stack.pending_under(member.executor_id)), f"{member.name} left work"
    return seconds


_TWIN = """
import secrets, socket, sys
secrets.token_hex = lambda *_: sys.argv[1].rpartition("-")[2]
hostname = sys.argv[1].split("-", 1)[1].rpartition("-")[0]
socket.gethostname = lambda: hostname
from holdfast.process.serve import serve
from holdfast.process.worker_app import create_app
from services.composition import Worker
serve(Worker(), create_app)
"""


def same_id_twice(ground: Ground, *, worker: int) -> Seen:
    member = ground.worker(worker)
    code = _TWIN.replace("sys.argv[1]", repr(member.executor_id))
    begun = time.monotonic()
    done = hands.run_inside(
        ground.stack, "worker", code, HOLDFAST_WORKER_PORT="0", HOLDFAST_DATABASE_WAIT_SECONDS="5"
    )
    ground.over()
    assert done.returncode == 1, (
        f"the twin ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-300:]}"
    )
    row = patiently(ground.stack.executors)[member.executor_id]
    assert row["state"] == "live", f"the first one is {row['state']}: {row['reason']}"
    return {"twin_refused_seconds": round(time.monotonic() - begun, 2)}


def pause_worker(ground: Ground, *, worker: int, seconds: float) -> Seen:
    victim = ground.worker(worker)
    ground.batch(MIDDLE)
    time.sleep(0.4)
    with watched(ground, victim):
        ground.stack.pause(victim)
        try:
            time.sleep(seconds)
        finally:
            ground.stack.unpause(victim)
            ground.over()
        code = ground.stack.exited(victim, 15).code
    assert code == 75, f"a fenced worker ended with {code}"
    return gone(ground, victim.executor_id)


def cut_network(ground: Ground, *, worker: int, seconds: float) -> Seen:
    assert isinstance(ground.stack, ComposeStack)
    victim = ground.worker(worker)
    ground.batch(MIDDLE)
    time.sleep(0.4)
    with hands.off_the_network(ground.stack, victim):
        time.sleep(seconds)
        declared_dead(ground, victim.executor_id)
        ground.over()
    return gone(ground, victim.executor_id)


def restarts_under_batch(ground: Ground, *, rounds: int) -> Seen:
    batch_id = ground.batch([30] * 30)
    for _ in range(rounds):
        rolling_restart(ground)
    ground.succeeded(batch_id, 180)
    return {"restarts": rounds * (ground.stack.worker_count + 1)}


def one_key(ground: Ground, *, posts: int) -> Seen:
    key = ground.key("one-key")
    start = threading.Barrier(posts)

    def post(_: int) -> Any:
        start.wait(10)
        return ground.load.post("/fibonacci/batches", {"numbers": [12, 13], "method": "doubling"}, key)

    with ThreadPoolExecutor(posts) as threads:
        ids = {answer["workflow_id"] for answer in threads.map(post, range(posts)) if answer}
    ground.over()
    assert len(ids) == 1, f"one key stands for {ids}"
    other = ground.stack.request(
        "POST", "/fibonacci/batches", json={"numbers": [14]}, headers={"Idempotency-Key": key}
    )
    assert other.status_code == 409, f"another body got {other.status_code}"
    return {"posts": posts}


def all_workers_down(ground: Ground, *, seconds: float) -> Seen:
    batch_id = ground.batch(MIDDLE)
    begun = now()
    members = ground.workers()
    with watched(ground, *members), hands.workers_gone(ground.stack, members):
        time.sleep(seconds)
        ground.over()
    ground.journal.write("downtime", **{"from": begun, "to": now()}, reason="all workers killed")
    back = time.monotonic()
    ground.succeeded(batch_id, 120)
    return {"batch_done_after_seconds": round(time.monotonic() - back, 2)}


def all_workers_paused(ground: Ground, *, seconds: float) -> Seen:
    batch_id = ground.batch(MIDDLE)
    members = ground.workers()
    begun = now()
    for member in members:
        ground.stack.pause(member)
    try:
        time.sleep(seconds)
    finally:
        for member in members:
            ground.stack.unpause(member)
        ground.over()
    ground.journal.write("downtime", **{"from": begun, "to": now()}, reason="all workers paused")
    ground.succeeded(batch_id, 120)
    return {}


FAULTS: dict[str, Fault] = {
    "kill_worker": kill_worker,
    "kill_api": kill_api,
    "rolling_restart": rolling_restart,
    "rolling_upgrade": rolling_upgrade,
    "postgres_stop": postgres.postgres_stop,
    "postgres_away": postgres.postgres_away,
    "postgres_away_long": postgres.postgres_away,
    "postgres_kill": postgres.postgres_kill,
    "kill_and_restart_postgres": postgres.kill_and_restart_postgres,
    "same_id_twice": same_id_twice,
    "pause_worker": pause_worker,
    "cut_network": cut_network,
    "half_open": network.half_open,
    "half_open_briefly": network.half_open_briefly,
    "half_open_api": network.half_open_api,
    "cut_host": hosts.cut_host,
    "cut_api_host": hosts.cut_api_host,
    "cut_hosts_in_turn": hosts.cut_hosts_in_turn,
    "reset": network.reset,
    "terminate_backends": postgres.terminate_backends,
    "terminate_backends_long": postgres.terminate_backends,
    "idle_connections": postgres.idle_connections,
    "row_lock": postgres.row_lock,
    "slow_queries": network.slow_queries,
    "disk_full": disk.disk_full,
    "wrong_clock": clock.wrong_clock,
    "poison": poison.poison,
    "restarts_under_batch": restarts_under_batch,
    "one_key": one_key,
    "all_workers_down": all_workers_down,
    "all_workers_down_long": all_workers_down,
    "all_workers_paused": all_workers_paused,
    "all_workers_paused_long": all_workers_paused,
    "kill_in_waits": waits.kill_in_waits,
    "hung_step": waits.hung_step,
    "blocked_interpreter": waits.blocked_interpreter,
    "read_only_server": waits.read_only_server,
    "promotion": waits.promotion,
}
