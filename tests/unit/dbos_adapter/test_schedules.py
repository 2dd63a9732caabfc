"""When schedules tick, in zones whose clocks change, and what becomes of ticks that no process fired."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise, takewhile
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock
from zoneinfo import ZoneInfo

import psycopg2
import pytest
from dbos._scheduler import backfill_schedule
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.dbos_adapter import missed_ticks, schedules
from holdfast.dbos_adapter.cron import check, tick_id, ticks_after
from holdfast.dbos_adapter.missed_ticks import Decision, decide, due_ticks
from holdfast.dbos_adapter.schedules import Accounting

MINUTE = timedelta(minutes=1)
NOW = datetime(2026, 5, 1, tzinfo=UTC)

# Zones whose clocks change by an hour, each with changes of 2025 to 2027 (UTC) forward and back.
ZONES = ["Europe/Berlin", "America/New_York", "America/St_Johns", "Africa/Casablanca", "America/Santiago"]
CRONS = ["0 30 2 * * *", "0 0 * * * *", "0 */20 * * * *", "*/30 * * * * *", "0 15 1,3 * * *", "0 0 0 * * *"]


def changes(zone: str) -> list[datetime]:
    hours = [datetime(2025, 1, 1, tzinfo=UTC) + timedelta(hours=n) for n in range(24 * 800)]
    offset = {at: at.astimezone(ZoneInfo(zone)).utcoffset() for at in hours}
    return [after for before, after in pairwise(hours) if offset[before] != offset[after]]


CHANGES = {zone: changes(zone) for zone in ZONES}


def ticks(cron: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    return list(takewhile(lambda tick: tick <= end, ticks_after(cron, zone, start)))


@settings(deadline=None)
@given(st.sampled_from(ZONES), st.sampled_from(CRONS), st.integers(0, 5), st.integers(0, 13 * 3600))
def test_around_a_change_of_the_clocks(zone: str, cron: str, which: int, seconds: int) -> None:
    """Processes that start at any time find the same ticks, each with an id of its own, in order."""
    change = CHANGES[zone][which % len(CHANGES[zone])]
    start, end = change - timedelta(hours=5), change + timedelta(hours=8)
    found = ticks(cron, zone, start, end)
    times = [tick.astimezone(UTC) for tick in found]
    assert times == sorted(set(times))
    assert len({tick_id("s", tick) for tick in found}) == len(found)
    later = start + timedelta(seconds=seconds)
    ids = [tick_id("s", tick) for tick in ticks(cron, zone, later, end)]
    assert ids == [tick_id("s", tick) for tick in found if tick > later]


@pytest.mark.parametrize(
    ("day", "wanted"),
    [
        ((2026, 3, 29), ["2026-03-29T03:00:00+02:00"]),  # 02:30 is left out: at the end of the gap
        ((2026, 10, 25), ["2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00"]),  # 02:30 comes twice
        ((2026, 10, 26), ["2026-10-26T02:30:00+01:00"]),
    ],
)
def test_what_the_documentation_says_of_berlin(day: tuple[int, int, int], wanted: list[str]) -> None:
    start = datetime(*day, tzinfo=ZoneInfo("Europe/Berlin"))
    found = ticks("0 30 2 * * *", "Europe/Berlin", start, start + timedelta(hours=20))
    assert [tick.isoformat() for tick in found] == wanted


@pytest.mark.parametrize(
    "cron", ["* * * * * *", "0 30 2 * * *", "30 2 * * *", "0 0 0 29 2 *", "0 0 9 * * mon-fri"]
)
def test_what_is_a_cron_expression(cron: str) -> None:
    check(cron, "America/New_York")


DUE = [NOW - n * MINUTE for n in (4, 3, 2, 1)]


@pytest.mark.parametrize(
    ("rule", "known", "wanted"),
    [
        ("none", [], Decision([], 4, DUE[3])),
        ("none", DUE, Decision([], 0, DUE[3])),
        ("once", [], Decision([DUE[3]], 3, DUE[3])),
        ("once", [DUE[3]], Decision([], 3, DUE[3])),
        ("once", [DUE[2]], Decision([DUE[3]], 2, DUE[3])),
        ("once", DUE, Decision([], 0, DUE[3])),
        ("all", [DUE[2]], Decision([DUE[1], DUE[3]], 1, DUE[3])),
    ],
)
def test_what_becomes_of_ticks_that_are_due(rule: str, known: list[datetime], wanted: Decision) -> None:
    window = timedelta(minutes=3)
    since = DUE[0] - MINUTE
    assert decide(DUE, set(known), since=since, now=NOW, rule=rule, window=window) == wanted


def test_a_tick_that_another_process_may_still_fire_is_left_to_it() -> None:
    now, since = DUE[3] + timedelta(seconds=9), DUE[0] - MINUTE
    found = decide(DUE, {DUE[1]}, since=since, now=now, rule="none", window=MINUTE)
    assert found == Decision([], 2, DUE[2])
    alone = decide(DUE[3:], set(), since=DUE[2], now=now, rule="none", window=MINUTE)
    assert alone == Decision([], 0, DUE[2])


def test_no_more_is_caught_up_than_the_limit() -> None:
    due = [NOW - timedelta(seconds=n) for n in range(1500, 0, -1)]
    found = decide(due, set(), since=due[0], now=NOW, rule="all", window=timedelta(hours=1))
    assert found == Decision(due[500:], 500, due[-1])


def test_a_long_gap_is_read_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(missed_ticks, "COUNT_LIMIT", 20)
    found = due_ticks("0 * * * * *", None, NOW - timedelta(days=1), NOW)
    assert found[:10] == [NOW - timedelta(days=1) + n * MINUTE for n in range(1, 11)]
    assert found[10:] == [NOW - n * MINUTE for n in range(9, -1, -1)]
    short = due_ticks("0 * * * * *", None, NOW - 5 * MINUTE, NOW)
    assert short == [NOW - n * MINUTE for n in range(4, -1, -1)]


# --- accounting, as DBOS backfills it ---------------------------------------------------------------


class Tables:
    """What the accounting reads and writes, of schedules in Berlin, and DBOS's system database beside it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, since: datetime, now: datetime, **crons: str) -> None:
        self.fired: list[str] = []
        self.moved: dict[str, dict[str, Any]] = {}
        self._rows = [
            {"schedule_name": name, "cron": cron, "time_zone": "Europe/Berlin", "catch_up": "all"}
            | {"catch_up_seconds": 86_400, "accounted_until": since, "next_tick_at": None, "now": now}
            for name, cron in crons.items()
        ]
        self.serializer = SimpleNamespace(deserialize=lambda _: None)
        monkeypatch.setattr(schedules.DBOS, "backfill_schedule", partial(backfill_schedule, self))
        monkeypatch.setattr(
            "dbos._scheduler._enqueue_scheduled_workflow",
            lambda *arguments: self.fired.append(arguments[3]),
        )

    def run(self, name: str, **params: Any) -> list[dict[str, Any]]:
        if name == "due_schedules":
            return self._rows
        if name == "known_ticks":
            return [{"tick_id": each} for each in params["tick_ids"] if each in self.fired]
        if name == "settle_forgotten_schedules":
            return []
        self.moved[params["schedule"]] = params
        return [{"schedule_name": params["schedule"]}]

    def get_schedule(self, name: str) -> dict[str, Any]:
        (row,) = [row for row in self._rows if row["schedule_name"] == name]
        return {
            "schedule": row["cron"],
            "cron_timezone": row["time_zone"],
            "context": "",
            "workflow_name": "t",
        } | {"workflow_class_name": None}

    def get_workflow_status(self, tick: str) -> bool:
        return tick in self.fired


def test_a_tick_in_the_gap_of_spring_is_caught_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """02:30 does not exist in Berlin on that day: the tick is at the end of the gap, once."""
    since, now = datetime(2024, 3, 30, 12, tzinfo=UTC), datetime(2024, 3, 31, 1, 30, tzinfo=UTC)
    tables = Tables(monkeypatch, since, now, s="0 30 2 * * *")
    for _ in range(2):
        Accounting(tables, "app").account()  # type: ignore[arg-type]
    assert tables.fired == ["sched-s-2024-03-31T03:00:00+02:00"]
    assert tables.moved["s"]["missed"] == 0
    assert tables.moved["s"]["until"] == datetime(2024, 3, 31, 1, tzinfo=UTC)


def test_the_second_of_an_hour_that_comes_twice_is_caught_up(monkeypatch: pytest.MonkeyPatch) -> None:
    since, now = datetime(2024, 10, 26, 22, 30, tzinfo=UTC), datetime(2024, 10, 27, 3, 30, tzinfo=UTC)
    tables = Tables(monkeypatch, since, now, s="0 0 * * * *")
    hours = [f"sched-s-2024-10-27T0{at}" for at in ("1:00:00+02:00", "2:00:00+02:00", "3:00:00+01:00")]
    tables.fired = [*hours, "sched-s-2024-10-27T04:00:00+01:00"]
    Accounting(tables, "app").account()  # type: ignore[arg-type]
    assert tables.fired[4:] == ["sched-s-2024-10-27T02:00:00+01:00"]
    assert tables.moved["s"]["missed"] == 0
    alone = Tables(monkeypatch, since, datetime(2024, 10, 27, 1, 30, tzinfo=UTC), s="0 0 * * * *")
    Accounting(alone, "app").account()  # type: ignore[arg-type]
    assert alone.fired == [*hours[:2], "sched-s-2024-10-27T02:00:00+01:00"]


def test_what_could_not_be_caught_up_is_caught_up_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as accounted for only after it was fired."""
    tables = Tables(monkeypatch, NOW - 5 * MINUTE, NOW, s="0 * * * * *")
    with monkeypatch.context() as patch:
        patch.setattr(schedules.DBOS, "backfill_schedule", Mock(side_effect=RuntimeError("test")))
        Accounting(tables, "app").account()  # type: ignore[arg-type]
    assert tables.moved == {}
    Accounting(tables, "app").account()  # type: ignore[arg-type]
    assert len(tables.fired) == 5


def test_a_schedule_that_fails_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tables = Tables(monkeypatch, NOW - 5 * MINUTE, NOW, never="0 0 0 30 2 *", broken="x", s="0 * * * * *")
    accounting = Accounting(tables, "app")  # type: ignore[arg-type]
    for _ in range(3):
        accounting.account()
    assert len(tables.fired) == 5
    assert [record.getMessage().split()[1] for record in caplog.records if record.levelname == "WARNING"] == [
        "never",
        "broken",
    ], "each once"


def test_an_outage_is_no_fault_of_a_schedule(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tables = Tables(monkeypatch, NOW - 5 * MINUTE, NOW, s="0 * * * * *", t="0 * * * * *")
    accounting = Accounting(tables, "app")  # type: ignore[arg-type]
    catch_up = Mock(side_effect=psycopg2.OperationalError("away"))
    monkeypatch.setattr(schedules.DBOS, "backfill_schedule", catch_up)
    with pytest.raises(psycopg2.OperationalError):
        accounting.account()
    assert catch_up.call_count == 1, "the other one would fail too"
    assert not caplog.records
