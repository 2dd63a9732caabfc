"""Faults of PostgreSQL and of the connections to it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.chaos import hands
from tests.chaos.endings import watched
from tests.chaos.ground import MIDDLE, Ground, Seen, complete, declared_dead, gone
from tests.chaos.load import now

_PROBED_FROM_SECONDS = 3.0


def postgres_stop(ground: Ground, *, seconds: float) -> Seen:
    return _postgres(ground, "immediate", seconds)


def postgres_away(ground: Ground, *, seconds: float) -> Seen:
    return _postgres(ground, "fast", seconds)


def postgres_kill(ground: Ground, *, seconds: float) -> Seen:
    return _postgres(ground, "kill", seconds)


def _postgres(ground: Ground, how: str, seconds: float) -> Seen:
    begun, before = now(), ground.ids()
    ground.batch(MIDDLE)
    with hands.postgres_gone(ground.stack, how):
        deadline = time.monotonic() + seconds
        if seconds >= _PROBED_FROM_SECONDS:
            time.sleep(2)
            while time.monotonic() < deadline - 2:
                probe(ground)
                time.sleep(0.5)
        time.sleep(max(0.0, deadline - time.monotonic()))
        ground.over()
    ground.journal.write("downtime", **{"from": begun, "to": now()}, reason=f"PostgreSQL {how}")
    complete(ground)
    after = ground.ids()
    return {"executors_replaced": len(before - after)}


def probe(ground: Ground) -> None:
    """Sends requests that the API must answer without PostgreSQL. The audit checks the answers."""
    for method, path in (("GET", "/livez"), ("GET", "/readyz"), ("GET", "/executors"), ("POST", "/nested")):
        begun = time.monotonic()
        try:
            answer = httpx.request(method, ground.stack.url + path, timeout=10, trust_env=False)
            status, retry_after = answer.status_code, answer.headers.get("Retry-After")
        except httpx.TransportError:
            status, retry_after = 0, None
        seconds = round(time.monotonic() - begun, 3)
        ground.journal.write("probe", path=path, status=status, seconds=seconds, retry_after=retry_after)


def kill_and_restart_postgres(ground: Ground, *, worker: int, delay: float, seconds: float) -> Seen:
    begun = now()
    victim = ground.worker(worker)
    ground.batch(MIDDLE)
    time.sleep(0.3)
    with watched(ground, victim):
        ground.stack.crash(victim)
        time.sleep(delay)
        with hands.postgres_gone(ground.stack, "fast"):
            time.sleep(seconds)
            ground.over()
    ground.journal.write("downtime", **{"from": begun, "to": now()}, reason="PostgreSQL restarted")
    complete(ground)
    declared_dead(ground, victim.executor_id)
    return gone(ground, victim.executor_id)


def terminate_backends(ground: Ground, *, times: int) -> Seen:
    before = ground.ids()
    ground.batch(MIDDLE)
    for _ in range(times):
        hands.as_superuser(
            ground.stack,
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE usename LIKE 'holdfast%' AND pid <> pg_backend_pid()",
        )
        time.sleep(1)
    ground.over()
    complete(ground)
    after = ground.ids()
    return {"executors_replaced": len(before - after)}


_CONNECTIONS = """
import time
from holdfast.settings import get_settings
import psycopg2
held = []
for _ in range(300):
    try:
        held.append(psycopg2.connect(get_settings().database_url))
    except psycopg2.OperationalError:
        break
print(len(held), flush=True)
time.sleep({seconds})
"""


def idle_connections(ground: Ground, *, seconds: float) -> Seen:
    code = _CONNECTIONS.format(seconds=seconds)
    with ThreadPoolExecutor(1) as threads:
        held = threads.submit(hands.run_inside, ground.stack, "worker", code)
        ground.batch(MIDDLE)
        done = held.result()
    ground.over()
    assert done.stdout.strip(), done.stderr[-500:]
    return {"connections": int(done.stdout.split()[0])}


def row_lock(ground: Ground, *, seconds: float) -> Seen:
    ground.batch(MIDDLE)
    lock = (
        "BEGIN; SET LOCAL statement_timeout = 0; SELECT executor_id FROM ops.executors"
        f" WHERE state IN ('live', 'draining') FOR UPDATE; SELECT pg_sleep({seconds}); COMMIT"
    )
    before = ground.ids()
    hands.as_superuser(ground.stack, lock)
    ground.over()
    complete(ground)
    after = ground.ids()
    return {"executors_replaced": len(before - after)}
