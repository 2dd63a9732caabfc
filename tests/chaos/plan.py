"""The faults of a campaign, their order and their parameters. All follow from the seed. Pure functions."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Draw = Callable[[random.Random], dict[str, Any]]

CONTAINERS = ("compose", "networks")
"""``networks`` also means containers, on networks that simulate separate hosts (hosts.yaml)."""


@dataclass(frozen=True)
class Kind:
    """A kind of fault, in a ``row`` of the fault matrix. ``cost_seconds``: approximate time with recovery."""

    row: int
    text: str
    cost_seconds: float
    weight: int = 1
    backends: tuple[str, ...] = ("native", *CONTAINERS)
    draw: Draw = field(default=lambda _: {})
    minutes: float = 0
    """The minimum length of campaigns that include this kind."""


def _delay(most: float) -> Draw:
    return lambda rng: {"worker": rng.randrange(10), "delay": round(rng.uniform(0, most), 3)}


def _seconds(least: float, most: float) -> Draw:
    return lambda rng: {"seconds": round(rng.uniform(least, most), 2)}


def _resets(rng: random.Random) -> dict[str, Any]:
    return {
        "api": rng.random() < 0.3,
        "worker": rng.randrange(10),
        "seconds": [round(rng.uniform(0.5, 3), 2) for _ in range(3)],
    }


KINDS: dict[str, Kind] = {
    "kill_worker": Kind(1, "SIGKILL of a worker under load", 8, weight=6, draw=_delay(1.0)),
    "kill_api": Kind(
        2,
        "SIGKILL of the API around accept, commit, answer",
        8,
        weight=4,
        draw=lambda rng: {"delay": round(rng.uniform(0, 0.12), 4), "posts": 16},
    ),
    "rolling_restart": Kind(3, "rolling SIGTERM restart of the workers and the API", 20, weight=2),
    "rolling_upgrade": Kind(
        3, "rolling upgrade to a newer image of the same durable code", 90, backends=("compose",), minutes=6
    ),
    "postgres_stop": Kind(4, "PostgreSQL stopped at once for 0 to 2 s", 10, weight=3, draw=_seconds(0, 2)),
    "postgres_away": Kind(4, "PostgreSQL stopped for 20 s", 35, draw=_seconds(20, 20), minutes=4),
    "postgres_away_long": Kind(4, "PostgreSQL stopped for 120 s", 150, draw=_seconds(120, 120), minutes=30),
    "postgres_kill": Kind(5, "SIGKILL of PostgreSQL", 12, weight=2, draw=_seconds(0, 1)),
    "kill_and_restart_postgres": Kind(
        6,
        "worker killed and PostgreSQL restarted during the sweep",
        15,
        weight=2,
        draw=lambda rng: {
            "worker": rng.randrange(10),
            "delay": round(rng.uniform(0.05, 0.6), 3),
            "seconds": round(rng.uniform(0, 1), 2),
        },
    ),
    "same_id_twice": Kind(
        7, "the same executor id started twice", 10, draw=lambda r: {"worker": r.randrange(10)}
    ),
    "pause_worker": Kind(
        8,
        "SIGSTOP past the lease, then SIGCONT",
        16,
        weight=2,
        draw=lambda rng: {"worker": rng.randrange(10), "seconds": round(rng.uniform(6, 9), 2)},
    ),
    "cut_network": Kind(
        9,
        "container cut from the network 30 s",
        45,
        backends=CONTAINERS,
        draw=lambda rng: {"worker": rng.randrange(10), "seconds": 30.0},
    ),
    "half_open": Kind(
        9,
        "worker's connections half-open for longer than the lease",
        40,
        backends=CONTAINERS,
        draw=lambda rng: {"worker": rng.randrange(10), "seconds": round(rng.uniform(15, 30), 2)},
    ),
    "half_open_briefly": Kind(
        9,
        "worker's connections half-open for 2 to 3 s",
        12,
        backends=CONTAINERS,
        draw=lambda rng: {"worker": rng.randrange(10), "seconds": round(rng.uniform(2, 2.9), 2)},
    ),
    "half_open_api": Kind(
        9, "the API's connections half-open", 22, backends=CONTAINERS, draw=_seconds(8, 14)
    ),
    "cut_host": Kind(
        9,
        "a host cut off from PostgreSQL, with every worker on it",
        50,
        weight=3,
        backends=("networks",),
        draw=lambda rng: {"host": rng.randrange(2), "seconds": round(rng.uniform(12, 25), 2)},
    ),
    "cut_api_host": Kind(
        9, "the API's host cut off from PostgreSQL", 25, backends=("networks",), draw=_seconds(8, 14)
    ),
    "cut_hosts_in_turn": Kind(
        9,
        "one host cut off after the other, the API's at last",
        100,
        backends=("networks",),
        draw=_seconds(10, 14),
        minutes=4,
    ),
    "reset": Kind(9, "connections of a worker or the API reset", 18, backends=CONTAINERS, draw=_resets),
    "terminate_backends": Kind(10, "backends terminated once a second", 16, draw=lambda _: {"times": 8}),
    "terminate_backends_long": Kind(
        10, "backends terminated once a second for a minute", 75, draw=lambda _: {"times": 60}, minutes=15
    ),
    "idle_connections": Kind(
        11, "300 idle connections, as far as the limits let in", 16, draw=_seconds(5, 5)
    ),
    "row_lock": Kind(11, "10 s lock on the rows of all executors", 22, draw=_seconds(10, 10)),
    "slow_queries": Kind(11, "200 ms more a query", 22, backends=CONTAINERS, draw=_seconds(10, 15)),
    "disk_full": Kind(
        12,
        "PostgreSQL's disk full for 5 to 15 s, then freed",
        40,
        # The small disk and the hosts are two different overrides of compose.yaml.
        backends=("compose",),
        draw=lambda rng: {"seconds": round(rng.uniform(5, 15), 2), "panic": rng.random() < 0.5},
        minutes=10,
    ),
    "wrong_clock": Kind(
        13,
        "a worker's clock an hour off, put right, and stepping back an hour",
        60,
        # The library is installed on the machine, not in containers.
        backends=("native",),
        draw=lambda rng: {"offset": rng.choice([3600.0, -3600.0])},
        minutes=10,
    ),
    "poison": Kind(14, "poison beside a minute of healthy jobs", 210, draw=_seconds(60, 60), minutes=10),
    "restarts_under_batch": Kind(
        14, "rolling restarts under one batch", 45, draw=lambda _: {"rounds": 2}, minutes=4
    ),
    "one_key": Kind(
        15,
        "50 concurrent posts with one key; one key with two bodies",
        4,
        weight=2,
        draw=lambda _: {"posts": 50},
    ),
    "all_workers_down": Kind(16, "every worker down", 30, draw=_seconds(15, 20)),
    "all_workers_down_long": Kind(16, "every worker down 60 s", 80, draw=_seconds(60, 60), minutes=10),
    "all_workers_paused": Kind(16, "every scheduler paused 20 s", 45, draw=_seconds(20, 20), minutes=6),
    "all_workers_paused_long": Kind(16, "every scheduler paused 60 s", 85, draw=_seconds(60, 60), minutes=15),
    # Their workflows are in a module of the tests, which no image contains.
    "kill_in_waits": Kind(
        17, "SIGKILL of a worker in every kind of wait", 25, weight=2, backends=("native",), draw=_delay(1.0)
    ),
    "hung_step": Kind(18, "steps that hang: a timeout, a cancel", 15, backends=("native",)),
    "blocked_interpreter": Kind(18, "an interpreter that is blocked", 45, backends=("native",), minutes=4),
    "read_only_server": Kind(
        19, "PostgreSQL only reads for 1 to 8 s", 30, backends=("native",), draw=_seconds(1, 8)
    ),
    "promotion": Kind(19, "a standby promoted in its primary's place", 45, backends=("native",), minutes=6),
}


@dataclass(frozen=True)
class Fault:
    """One planned fault. It begins ``pause_seconds`` after the recovery from the previous one."""

    number: int
    kind: str
    pause_seconds: float
    parameters: dict[str, Any]

    @property
    def row(self) -> int:
        """The fault's row in the fault matrix."""
        return KINDS[self.kind].row

    def __str__(self) -> str:
        told = ", ".join(f"{name} {value}" for name, value in self.parameters.items())
        return f"{self.number:3}  row {self.row:2}  {self.kind:26} after {self.pause_seconds:.1f} s  {told}"


GROUPS = {"waits": ["kill_in_waits", "hung_step", "blocked_interpreter", "read_only_server", "promotion"]}
"""Names for groups of kinds."""


def plan(
    seed: int, minutes: float, backend: str, only: list[str] | None = None, runs: int = 0
) -> list[Fault]:
    """Returns a campaign's faults for about ``minutes``: shuffled decks, each with every kind at least once.

    With ``runs``, each kind occurs that often, if the time allows.
    """
    rng = random.Random(f"{seed}/{backend}")
    known = [
        name
        for name, kind in KINDS.items()
        if backend in kind.backends and (name in only if only else minutes >= kind.minutes)
    ]
    faults: list[Fault] = []
    left = minutes * 60
    while known:
        deck = [name for name in known for _ in range(runs or KINDS[name].weight)]
        rng.shuffle(deck)
        for name in deck:
            kind = KINDS[name]
            pause = round(rng.uniform(0.2, 2.0), 2)
            parameters = kind.draw(rng)
            if left < kind.cost_seconds:
                return faults
            left -= kind.cost_seconds + pause
            faults.append(Fault(len(faults) + 1, name, pause, parameters))
        if runs:
            break
    return faults
