"""Computes when a schedule ticks, from a cron expression with seconds first and a time zone. Pure functions.

Ticks are computed by croniter, as in DBOS, so that both find the same times.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from croniter import croniter


def check(cron: str, time_zone: str) -> None:
    """Raises ``ValueError`` with an explanation if no schedule can tick by these arguments."""
    try:
        zone = ZoneInfo(time_zone)
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f'there is no time zone {time_zone!r}: IANA names are meant, such as "Europe/Berlin"'
        ) from None
    if not isinstance(cron, str) or not croniter.is_valid(cron, second_at_beginning=True):
        raise ValueError(
            f"{cron!r} is no cron expression: six fields, seconds first (second minute hour day month "
            'weekday), for example "0 30 2 * * *"'
        )
    try:
        croniter(cron, datetime(2024, 1, 1, tzinfo=UTC).astimezone(zone), second_at_beginning=True).get_next()
    except ValueError:
        raise ValueError(f"the time {cron!r} never comes") from None


def ticks_after(cron: str, time_zone: str | None, moment: datetime) -> Iterator[datetime]:
    """Yields all ticks later than the moment, in order, in the zone."""
    zone = ZoneInfo(time_zone) if time_zone else UTC
    times = croniter(cron, moment.astimezone(zone), second_at_beginning=True)
    while True:
        yield times.get_next(datetime)


def tick_id(schedule: str, scheduled_at: datetime) -> str:
    """Returns the id that DBOS gives a tick's workflow. The time has the offset of the schedule's zone."""
    return f"sched-{schedule}-{scheduled_at.isoformat()}"
