"""Which ticks of a schedule are due, and which of those that no process fired are caught up or missed."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile

from holdfast.dbos_adapter.cron import ticks_after

CATCH_UP_LIMIT = 1000
"""Limits the ticks of one schedule that are caught up together."""
COUNT_LIMIT = 10_000
"""Limits the ticks of one gap that are counted as missed."""

# DBOS fires a tick up to 10 s late, so that processes do not all fire at the same moment.
_IN_TIME = timedelta(seconds=15)


@dataclass(frozen=True)
class Decision:
    """The decision about the due ticks of a schedule."""

    catch_up: list[datetime]
    missed: int
    until: datetime
    """All ticks up to here are accounted for."""


def decide(
    due: list[datetime],
    known: Set[datetime],
    *,
    since: datetime,
    now: datetime,
    rule: str,
    window: timedelta,
) -> Decision:
    """Decides about the ticks that are due after `since`, in order. `known` are the ticks that were fired.

    `rule` and `window` belong to the schedule. The rule is ``none``, ``once`` (the latest of all due ticks)
    or ``all`` (the ticks of the window).
    """
    until = due[-1] if due else since
    missing = [tick for tick in due if tick not in known]
    catch_up: list[datetime] = []
    if rule == "once":
        # If the latest tick was fired, that was the run: other processes may do this concurrently.
        catch_up = [until] if until in missing else []
    elif rule == "all":
        catch_up = [tick for tick in missing if now - tick <= window][-CATCH_UP_LIMIT:]
    elif young := [tick for tick in missing if now - tick <= _IN_TIME]:
        # Another process may still fire these ticks.
        until = max((tick for tick in due if tick < young[0]), default=since)
        missing = [tick for tick in missing if tick < young[0]]
    return Decision(catch_up, len(missing) - len(catch_up), until)


def due_ticks(cron: str, time_zone: str | None, since: datetime, now: datetime) -> list[datetime]:
    """Returns the ticks after `since` until now, in the zone: both ends of more than `COUNT_LIMIT`."""
    since, now = since.astimezone(UTC), now.astimezone(UTC)

    def first_ticks_after(start: datetime) -> list[datetime]:
        times = takewhile(lambda tick: tick.astimezone(UTC) <= now, ticks_after(cron, time_zone, start))
        return list(islice(times, COUNT_LIMIT // 2))

    oldest = first_ticks_after(since)
    if len(oldest) < COUNT_LIMIT // 2:
        return oldest
    # The same number of ticks takes about the same time.
    last = oldest[-1].astimezone(UTC)
    return oldest + first_ticks_after(max(last, now - (last - since)))
