"""Several hosts, simulated by one network each (hosts.yaml). One at a time is cut off from PostgreSQL."""

from __future__ import annotations

import time

from holdfast.settings import Settings
from tests.chaos import firewall
from tests.chaos.endings import watched
from tests.chaos.ground import (
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

OVERRIDE = "tests/chaos/hosts.yaml"
HOSTS = ("west", "east")
"""The hosts with workers."""
API_HOST = "middle"

_PROBED_FROM_SECONDS = 3.0


def stack(image: str, *, workers: int, **settings: str) -> ComposeStack:
    """Returns a stack across the hosts, with ``workers`` workers on each."""
    services = ("worker", "worker-east")
    return ComposeStack(
        image,
        workers=max(len(services), workers - workers % len(services)),
        override=OVERRIDE,
        worker_services=services,
        **settings,
    )


def cut_host(ground: Ground, *, host: int, seconds: float) -> Seen:
    """Each worker of the host is declared dead in time and ends fenced. The other host takes over."""
    network, across = HOSTS[host % len(HOSTS)], _hosts(ground)
    victims = on_host(ground, network)
    others = {member.executor_id for member in ground.workers()} - {v.executor_id for v in victims}
    lease_seconds = float(Settings.model_fields["lease_seconds"].default)
    ground.batch(MIDDLE)
    time.sleep(0.4)
    with watched(ground, *victims):
        with firewall.host_cut(across, network):
            begun = time.time()
            until = time.monotonic() + seconds
            for victim in victims:
                declared_dead(ground, victim.executor_id)
            rows = across.query(
                "SELECT extract(epoch FROM taken_over_at)::float8 AS at, taken_over_by FROM ops.executors"
                f" WHERE executor_id IN ({', '.join(repr(v.executor_id) for v in victims)})"
            )
            dead_after = max(row["at"] for row in rows) - begun
            assert dead_after <= lease_seconds + 1, f"declared dead only after {dead_after:.2f} s"
            assert {row["taken_over_by"] for row in rows} <= others, f"taken over by {rows}, not {others}"
            time.sleep(max(0.0, until - time.monotonic()))
        ground.over()
        codes = [across.exited(victim, 30).code for victim in victims]
    assert set(codes) == {FENCED}, f"fenced workers ended with {codes}"
    complete(ground)
    seen = [gone(ground, victim.executor_id) for victim in victims]
    return {
        "host": network,
        "dead_after_seconds": round(dead_after, 2),
        "workflows": sum(each["workflows"] for each in seen),
    }


def cut_api_host(ground: Ground, *, seconds: float) -> Seen:
    """The API answers 503 in time. The workers declare it dead like a worker, and it restarts."""
    begun, before, api = now(), ground.ids(), patiently(ground.stack.api)
    with firewall.host_cut(_hosts(ground), API_HOST):
        until = time.monotonic() + seconds
        time.sleep(_PROBED_FROM_SECONDS)
        while time.monotonic() < until:
            probe(ground)
            time.sleep(0.3)
    ground.over()
    seen = replaced_or_unharmed(ground, api)
    ground.journal.write("downtime", **{"from": begun, "to": now()}, reason="the API's host cut off")
    ended = before - ground.ids() - {api.executor_id}
    assert not ended, f"ended without a reason: {ended}"
    return seen


def cut_hosts_in_turn(ground: Ground, *, seconds: float) -> Seen:
    """Each host recovers before the next one is cut. One batch spans the whole time."""
    batch_id = ground.batch([27] * 20)
    seen = [cut_host(ground, host=host, seconds=seconds) for host in range(len(HOSTS))]
    cut_api_host(ground, seconds=seconds)
    ground.succeeded(batch_id, 120)
    return {"dead_after_seconds": max(each["dead_after_seconds"] for each in seen)}


def on_host(ground: Ground, network: str) -> list[Member]:
    """Returns the workers that reach PostgreSQL through that network."""
    across = _hosts(ground)
    name = f"{across.project}_{network}"
    found = [member for member in ground.workers() if across.database_network(member) == name]
    assert found, f"no worker on {network}"
    return found


def _hosts(ground: Ground) -> ComposeStack:
    assert isinstance(ground.stack, ComposeStack)
    patiently(ground.stack.api)
    return ground.stack
