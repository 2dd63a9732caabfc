"""Whoever is set up as the settings allow can judge while it is well, and never judges what all shared."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from holdfast.recovery import lease as lease_module
from holdfast.recovery.lease import Lease
from holdfast.recovery.sweep import HEARTBEAT_LATE, LOCK_LOST, Sweep
from holdfast.settings import Settings
from tests.support.executors import identity

ME, PEER = "worker-me", "worker-peer"


def _accepted() -> list[Settings]:
    found = []
    for heartbeat, lease, sweep, second_look in itertools.product(
        (0.2, 1, 2, 3), (1, 2, 3, 5, 6, 10), (0.05, 0.25, 2, 3), (0.15, 1, 3)
    ):
        try:
            found.append(
                Settings(
                    heartbeat_seconds=heartbeat,
                    lease_seconds=lease,
                    sweep_seconds=sweep,
                    second_look_seconds=second_look,
                )
            )
        except ValidationError:
            continue
    return found


ACCEPTED = _accepted()


def told(settings: Settings) -> str:
    return (
        f"beat {settings.heartbeat_seconds:g}, lease {settings.lease_seconds:g},"
        f" sweep {settings.sweep_seconds:g}, second look {settings.second_look_seconds:g}"
    )


@dataclass
class Machine:
    """A sweeper and a peer on one machine with their database: a suspension stops all but its clock."""

    settings: Settings
    random: random.Random
    late: float = 0.0
    now: float = 1000.0
    suspended: float = 0.0
    hung: bool = False
    killed: bool = False
    beats: dict[str, float] = field(default_factory=dict)
    next_beat: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sweep = Sweep(self.settings, identity(ME), settled_seconds=lambda: 1e9, clock=lambda: self.now)
        for who in (ME, PEER):
            self.beats[who] = self.database_time
            self.next_beat[who] = self.now + self.random.uniform(0, self.settings.heartbeat_seconds)
        self.next_look = self.now + self.random.uniform(0, self.settings.sweep_seconds)

    @property
    def database_time(self) -> float:
        return self.now + self.suspended

    def run(self, seconds: float) -> list[tuple[float, str]]:
        """Lets time pass; when the peer was suspected, and of what."""
        end, found = self.now + seconds, []
        while True:
            at, who = min((self.next_look, ""), *((at, who) for who, at in self.next_beat.items()))
            if at > end:
                self.now = end
                return found
            self.now = at
            if who:
                self.next_beat[who] = at + self.settings.heartbeat_seconds + self.random.uniform(0, self.late)
                if who == ME or not (self.hung or self.killed):
                    self.beats[who] = self.database_time
                continue
            found += [(self.now, reason) for row, reason in self.sweep._suspected(self.rows())]
            self.next_look = self.now + self.sweep._pause_seconds() + self.random.uniform(0, self.late)

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "executor_id": who,
                "application": "holdfast-worker",
                "lock_pid": None if who == PEER and self.killed else 1,
                "heartbeat_age_seconds": self.database_time - self.beats[who],
                "database_time": self.database_time,
            }
            for who in (ME, PEER)
        ]


def test_the_grid_has_settings_near_the_limit() -> None:
    near = [told(each) for each in ACCEPTED if each.lateness_seconds < 0.4]
    assert len(ACCEPTED) > 100
    assert "beat 2, lease 5, sweep 0.25, second look 0.15" in near
    assert "beat 1, lease 5, sweep 2, second look 1" in near


@pytest.mark.parametrize("death", ["killed", "hung"])
def test_a_sweeper_that_is_well_judges(death: str) -> None:
    """Its heartbeats and polls come a little late, as they do."""
    for settings, seed in itertools.product(ACCEPTED, range(2)):
        machine = Machine(settings, random.Random(seed), late=0.09)
        assert machine.run(2 * settings.lease_seconds) == [], f"it suspects the living: {told(settings)}"
        setattr(machine, death, True)
        begun = machine.now
        found = machine.run(2 * settings.lease_seconds + 2)
        assert found, f"it never judges: {told(settings)}"
        at, reason = found[0]
        if death == "killed":
            assert reason == LOCK_LOST
            assert at - begun < settings.longest_pause_seconds + settings.second_look_seconds + 0.2
        else:
            assert reason == HEARTBEAT_LATE
            assert at - begun < settings.lease_seconds + settings.longest_pause_seconds + 0.1


@pytest.mark.parametrize(("pause", "settled"), [(0.0, True), (0.2, False)])
def test_a_break_between_two_heartbeats_starts_the_settling_time_again(
    pause: float, settled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What kept this executor's heartbeat may have kept everyone's."""
    settings, now = Settings(), 1000.0
    nothing: Any = lambda *_: 0  # noqa: E731
    lease = Lease(settings, identity(ME), on_fenced=nothing, on_desired=nothing, in_flight=nothing)
    lease._held, lease._session_since, lease.last_heartbeat = True, 0.0, now
    now += 2 * settings.heartbeat_seconds + 0.4 + pause
    answer = [{"desired_state": "live", "database_time": 0.0}]
    monkeypatch.setattr(lease_module, "query", lambda *_, **__: answer)
    monkeypatch.setattr(lease_module, "time", SimpleNamespace(monotonic=lambda: now, time=lambda: now))
    lease._send_heartbeat(nothing)
    assert (lease.settled_seconds >= settings.lease_seconds) is settled


def test_a_silence_that_all_shared_is_nobodys_death() -> None:
    """The machine is suspended twice between two heartbeats, for any time, before or after any poll."""
    chance = random.Random(1)
    for settings, seed in itertools.product(ACCEPTED, range(20)):
        machine = Machine(settings, random.Random(seed))
        found = machine.run(settings.lease_seconds / 2 + chance.uniform(0, settings.heartbeat_seconds))
        for _ in range(2):
            machine.suspended += chance.uniform(0, settings.lease_seconds)
            found += machine.run(chance.uniform(0, settings.heartbeat_seconds / 2))
        found += machine.run(settings.lease_seconds + 1)
        assert found == [], f"it suspects the living: {told(settings)}"
