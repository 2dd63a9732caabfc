"""Decides about each tick of a schedule once, on the database's clock, and catches up on missed ticks.

DBOS fires ticks in each process of an application. Here the database decides what happens to a tick
(``ops.fire_tick``: sql/migrations/009_schedules.sql), and a thread of each worker accounts for ticks that no
process fired.

Private to DBOS 3.4.0 and used here, each held by a contract test: the scheduler's
``_enqueue_scheduled_workflow`` and the time it reads, a system database's ``init_workflow``, and the
registry's ``workflow_info_map``.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from typing import Any

import dbos._scheduler
from dbos import DBOS
from dbos import error as dbos_error
from dbos._dbos import _get_or_create_dbos_registry

from holdfast.dbos_adapter.cron import tick_id, ticks_after
from holdfast.dbos_adapter.missed_ticks import decide, due_ticks
from holdfast.dbos_adapter.retries import patiently
from holdfast.postgres.database import OpsPool, Row
from holdfast.postgres.outage import is_outage

log = logging.getLogger("holdfast.schedules")

_EVERY_SECONDS = 5.0
_SECOND = timedelta(seconds=1)

_catching_up = threading.local()


class _FiringDatabase:
    """A system database that stores a scheduled workflow by the rules of its schedule."""

    def __init__(self, sys_db: Any, scheduled_at: datetime) -> None:
        self._sys_db, self._scheduled_at = sys_db, scheduled_at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sys_db, name)

    def init_workflow(self, status: dict[str, Any], **options: Any) -> Any:
        sessions = vars(self._sys_db).get("sessions")
        if sessions is None or status["shard_key"] is not None:
            return self._sys_db.init_workflow(status, **options)
        tick, schedule = status["workflow_uuid"], status["schedule_name"]
        [row] = patiently(sessions.run)(
            "fire_tick",
            tick_id=tick,
            schedule=schedule,
            scheduled_at=self._scheduled_at,
            workflow_name=status["name"],
            workflow_class=status["class_name"],
            queue=status["queue_name"],
            application=status["application_name"],
            version=status["app_version"],
            arguments=status["inputs"],
        )
        if row["outcome"] == "skipped":
            log.info("tick %s skipped: a run is unfinished", tick, extra={"action": "schedule.skipped"})
            if tick.startswith(f"sched-{schedule}-trigger-"):
                text = f"schedule {schedule} starts no run beside one that is unfinished"
                raise dbos_error.DBOSException(text)
        return status["status"], False


def guard_schedule(
    database_now: Callable[[], datetime],
    *,
    early_seconds: float,
    late_seconds: float,
    before_tick: Callable[[], object] = lambda: None,
) -> None:
    """Computes ticks on the database's clock, and fires them by the rules of their schedules.

    DBOS computes ticks from the local clock and sleeps until the next one. After a clock step of an hour,
    even back to the right time, it would schedule nothing for that hour. So ticks are dropped while the local
    clock is far from the database's. A process that was paused fires every tick that it missed, without
    limit. So late ticks are dropped and left to `Accounting`. ``database_now`` must not depend on the local
    wall clock.
    """
    current: Any = dbos._scheduler._enqueue_scheduled_workflow
    original = getattr(current, "unguarded", current)

    class DatabaseTime(datetime):
        """``datetime`` as ``dbos._scheduler`` sees it: only the current time differs."""

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]  # a plain datetime
            return database_now().astimezone(tz)

    def enqueue(sys_db: Any, workflow_name: str, scheduled_at: datetime, *args: Any, **kwargs: Any) -> None:
        now = database_now()
        late, off = now - scheduled_at, datetime.now(UTC) - now
        too_late = late > timedelta(seconds=late_seconds) and not getattr(_catching_up, "now", False)
        if (
            late >= timedelta(seconds=-early_seconds)
            and not too_late
            and abs(off.total_seconds()) <= early_seconds
        ):
            before_tick()
            original(_FiringDatabase(sys_db, scheduled_at), workflow_name, scheduled_at, *args, **kwargs)
            return
        log.error(
            "tick %s not scheduled: %.1f s late, the local clock %.1f s from the database's",
            scheduled_at.isoformat(),
            late.total_seconds(),
            off.total_seconds(),
            extra={"action": "schedule.dropped"},
        )

    enqueue.unguarded = original  # type: ignore[attr-defined]
    dbos._scheduler._enqueue_scheduled_workflow = enqueue
    dbos._scheduler.datetime = DatabaseTime  # type: ignore[attr-defined]  # the module imports it


def workflow_function(name: str) -> Callable[..., Any] | None:
    """Returns the workflow of that name in this process, or None."""
    return _get_or_create_dbos_registry().workflow_info_map.get(name)


class Accounting:
    """A thread that catches up on and counts the ticks that no process fired, every few seconds.

    Any number of processes may do so concurrently: a tick's id contains its time, so catching up is
    idempotent, and only one of them advances ``accounted_until``.
    """

    def __init__(
        self,
        ops: OpsPool,
        application: str,
        *,
        is_allowed: Callable[[], bool] = lambda: True,
        apply_definitions: Callable[[], None] = lambda: None,
        has_schedules: bool = True,
    ) -> None:
        """`is_allowed` returns whether this process may fire ticks now. `apply_definitions` begins each pass.

        A process whose role has no schedules does nothing else, and may not read them.
        """
        self._ops = ops
        self._application = application
        self._is_allowed = is_allowed
        self._apply_definitions = apply_definitions
        self._has_schedules = has_schedules
        self._last_errors: dict[str, str] = {}
        """The last logged error of each part of a pass that failed."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="schedules", daemon=True)

    def start(self) -> None:
        """Starts the thread, which accounts immediately and then every few seconds."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread. Blocks for a second at most."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._is_allowed():
                    self.account()
            except Exception as error:
                # The next pass tries again. The lease reports an outage of PostgreSQL.
                log.warning(
                    "schedules not accounted for: %s", str(error).strip(), extra={"action": "schedule.failed"}
                )
            self._stopping.wait(_EVERY_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311

    def account(self) -> None:
        """Makes one pass over the schedules of the application that have ticks to account for.

        Pauses those that no live code knows, until live code does. One that fails does not block the others.
        """
        self._go_on("definitions not applied", self._apply_definitions)
        if not self._has_schedules:
            return
        for row in self._ops.run("settle_forgotten_schedules", application=self._application):
            name, is_active = row["schedule_name"], row["is_active"]
            log.warning(
                "schedule %s is %s live code knows it",
                name,
                "resumed:" if is_active else "paused: no",
                extra={"action": "schedule.resumed" if is_active else "schedule.paused"},
            )
        for row in self._ops.run("due_schedules", application=self._application):
            name = row["schedule_name"]
            self._go_on(f"schedule {name} not accounted for", partial(self._account, row))

    def _go_on(self, text: str, call: Callable[[], None]) -> None:
        """Calls `call`, and logs an error of it, each once. Raises that of an outage."""
        try:
            call()
            self._last_errors.pop(text, None)
        except Exception as error:
            if is_outage(error):
                raise
            reason = str(error).strip() or type(error).__name__
            if self._last_errors.get(text) != reason:
                self._last_errors[text] = reason
                log.warning("%s: %s", text, reason, extra={"action": "schedule.failed"})

    def _account(self, row: Row) -> None:
        name, cron, zone, since = row["schedule_name"], row["cron"], row["time_zone"], row["accounted_until"]
        # UTC from here on: Python computes and compares times of one zone by the wall clock.
        ids = {tick_id(name, tick): tick.astimezone(UTC) for tick in due_ticks(cron, zone, since, row["now"])}
        due = list(ids.values())
        fired = self._ops.run("known_ticks", tick_ids=list(ids)) if due else []
        decision = decide(
            due,
            {ids[each["tick_id"]] for each in fired},
            since=since,
            now=row["now"],
            rule=row["catch_up"],
            window=timedelta(seconds=row["catch_up_seconds"] or 0),
        )
        if decision.catch_up:
            self._catch_up(name, decision.catch_up)
        next_tick = next(ticks_after(cron, zone, decision.until)).astimezone(UTC)
        if (decision.until, next_tick) == (since, row["next_tick_at"]):
            return
        moved = self._ops.run(
            "account_ticks",
            schedule=name,
            accounted_until=since,
            until=decision.until,
            next_tick_at=next_tick,
            missed=decision.missed,
        )
        if moved and decision.missed:
            fields = {"action": "schedule.missed"}
            log.warning("schedule %s: %d ticks did not run", name, decision.missed, extra=fields)

    def _catch_up(self, name: str, ticks: list[datetime]) -> None:
        _catching_up.now = True
        try:
            started = DBOS.backfill_schedule(name, ticks[0] - _SECOND, ticks[-1] + _SECOND)
        finally:
            _catching_up.now = False
        log.info(
            "schedule %s: caught up on ticks %s to %s (%d)",
            name,
            ticks[0].isoformat(),
            ticks[-1].isoformat(),
            len(started),
            extra={"action": "schedule.caught_up"},
        )
