"""Makes DBOS's calls wait for the end of an outage of PostgreSQL, so that no workflow's code sees it.

DBOS 3.4.0 retries errors that keep it from the server and takes all others for final. Some methods that a
workflow or a step can reach lack its retry. A read-only server (after a failover, or a standby) ended
workflows with its refusal as their own error. Here one rule decides which errors are an outage
(`outage.is_outage`), and every method that a workflow reaches follows it;
tests/integration/dbos_adapter/test_outages.py lists them.

Private to DBOS 3.4.0 and used here: ``db_retry``, its ``time.sleep`` and ``retriable_postgres_exception``,
``dbos._datasource._is_retriable_db_error``, and the methods that `_UNRETRIED` and `_UNRETRIED_EFFECTS` name.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from functools import wraps
from types import SimpleNamespace
from typing import Any

import dbos._datasource
import dbos._sys_db
import psycopg
import sqlalchemy as sa
from dbos import DBOS, AsyncSQLAlchemyDatasource, SQLAlchemyDatasource
from dbos._sys_db import db_retry
from dbos._sys_db_postgres import PostgresSystemDatabase
from sqlalchemy.orm import Session

from holdfast.postgres.outage import REACH, is_outage, is_read_only, server_reads_only
from holdfast.statuses import UNFINISHED

RETRY_CAP_SECONDS = 1.0
# Fallback in case the three Holdfast sessions that watch for it do not report that PostgreSQL is back.
AWAY_CAP_SECONDS = 30.0
# An attempt that began during the outage may fail this long after its end: name lookups are slow.
_JUST_BACK_SECONDS = 3.0
# A transaction that began on a read-only server stays read-only, for this long at most.
_READ_ONLY_SECONDS = 5.0

_UNRETRIED = (
    "create_schedule",
    "delete_queue",
    "delete_schedule",
    "fork_workflow",
    "get_queue",
    "get_schedule",
    "init_workflows",
    "list_application_versions",
    "list_queues",
    "_list_schedules",
    "rewind_workflow",
    "_set_schedule_status",
    "update_application_version_timestamp",
    "update_queue",
    "upsert_queue",
    "upsert_schedule",
)
"""Methods of DBOS's system database that a workflow or a step can reach and that lack its retry."""

_UNRETRIED_EFFECTS = ("_check_execution", "_record_error", "_delete_checkpoints")
"""Datasource methods that lack DBOS's retry. Each may run twice: a read, an idempotent insert, a delete."""

_FOR_EVER: Any = SimpleNamespace(_is_sqlite=False, _retry_connection_errors=True)
"""Replaces the system database in DBOS's retries."""


class _ShortSleep:
    """``time`` as ``dbos._sys_db`` sees it: a sleep ends when PostgreSQL is back, or after a second.

    DBOS doubles its wait for the database up to 60 s, so work stands still for several more seconds after a
    short outage. One retry per second per executor costs the database nothing. During a known outage the
    sleeps are longer: if dozens of threads keep asking for a name that does not resolve, they learn seconds
    late that it does (4.4 s seen, in containers). The few sessions of Holdfast that do ask (lease, sweep,
    listener) end every sleep.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        """Sleeps until PostgreSQL is back, at most for a time that depends on the state of the outage."""
        if REACH.away:
            seconds = AWAY_CAP_SECONDS
        elif time.monotonic() - REACH.back_at < _JUST_BACK_SECONDS:
            seconds = 0.1
        elif seconds > RETRY_CAP_SECONDS:
            seconds = RETRY_CAP_SECONDS * random.uniform(0.5, 1.0)  # noqa: S311
        REACH.wait_for_return(seconds)


_read_only_seen = float("-inf")
"""Monotonic time at which a server last reported that it is read-only."""


def install() -> None:
    """Makes every DBOS call wait for the end of an outage. Idempotent; call after other replacements."""
    dbos._sys_db.time = _ShortSleep()  # type: ignore[assignment, attr-defined]
    dbos._sys_db.retriable_postgres_exception = _is_retried  # type: ignore[attr-defined, assignment]
    dbos._datasource._is_retriable_db_error = _is_retried_effect
    if not sa.event.contains(sa.Engine, "handle_error", _drop_read_only):
        sa.event.listen(sa.Engine, "handle_error", _drop_read_only)
    for name in _UNRETRIED:
        _wrap(PostgresSystemDatabase, name, _waiting(name))
    _wrap(DBOS, "apply_schedules", _waiting_classmethod)
    for name in _UNRETRIED_EFFECTS:
        _wrap(SQLAlchemyDatasource, name, patiently)
        _wrap(AsyncSQLAlchemyDatasource, name, _waiting_coroutine)


def patiently(run: Callable[..., Any]) -> Callable[..., Any]:
    """Retries a function during an outage, without limit, as DBOS does."""
    waiting: Callable[..., Any] = db_retry(sys_db=_FOR_EVER)(run)
    return waiting


def _wrap(owner: type, name: str, wrapper: Callable[[Callable[..., Any]], Any]) -> None:
    current: Any = owner.__dict__.get(name) or getattr(owner, name, None)
    if current is None:
        return  # an attached application's DBOS may be older than this method
    if not hasattr(current, "waits_for_postgres"):
        wrapped = wrapper(current)
        wrapped.waits_for_postgres = True
        setattr(owner, name, wrapped)


def _is_retried(error: Exception) -> bool:
    """Decides whether DBOS tries one of its own statements again."""
    if isinstance(error, sa.exc.InvalidRequestError):
        # A session ended twice in a row between its checkout and its first statement.
        return str(error) == "This connection is closed"
    return isinstance(error, sa.exc.DBAPIError | psycopg.Error) and is_outage(error)


def _is_retried_effect(error: Exception, is_serialization_error: Callable[[Exception], bool]) -> bool:
    """Decides whether a datasource's transaction, whose statements a user wrote, is tried again."""
    if isinstance(error, sa.exc.TimeoutError):
        return True  # no session of the pool became free: DBOS's calls also wait for one
    if not isinstance(error, sa.exc.DBAPIError):
        return False
    if is_read_only(error) and not error.connection_invalidated:
        # The user's own read-only transaction refused this, not the server. Or the transaction began before
        # the server accepted writes again.
        return time.monotonic() - _read_only_seen < _READ_ONLY_SECONDS
    return is_outage(error, users_statement=True) or is_serialization_error(error)


def _drop_read_only(context: sa.engine.ExceptionContext) -> None:
    """Treats a session of a read-only server as lost: the next one may reach the new primary."""
    global _read_only_seen  # noqa: PLW0603
    error = context.original_exception
    if not isinstance(error, psycopg.Error) or not is_read_only(error):
        return
    connection = context.connection
    if connection is None:
        _read_only_seen = time.monotonic()
    elif not connection.invalidated and server_reads_only(connection.connection.driver_connection):
        _read_only_seen = time.monotonic()
        context.is_disconnect = True


# --- methods without a retry ----------------------------------------------------------------------


def _waiting(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Gives a method the retry where a workflow or a step calls it.

    DBOS's own threads handle the error themselves and have to notice a stop meanwhile. Inside a caller's
    transaction only the caller can retry.
    """

    def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def method(db: Any, *args: Any, **options: Any) -> Any:
            theirs = any(isinstance(each, sa.Connection | Session) for each in (*args, *options.values()))
            if theirs or DBOS.workflow_id is None:
                return original(db, *args, **options)
            answer_lost = False

            def attempt() -> Any:
                nonlocal answer_lost
                if answer_lost and name in _DONE and _DONE[name](db, *args):
                    return args[1] if name == "fork_workflow" else None
                answer_lost = True
                return original(db, *args, **options)

            return db_retry(sys_db=db)(attempt)()

        return method

    return wrapper


def _forked(db: Any, _originals: list[str], forks: list[str], *_: Any) -> bool:
    return len(db.get_workflow_statuses(forks)) == len(forks)


def _rewound(db: Any, workflow_id: str, *_: Any) -> bool:
    # Only a workflow that has ended can be rewound.
    (status,) = db.get_workflow_statuses([workflow_id]) or [None]
    return status is not None and status["status"] in UNFINISHED


def _scheduled(db: Any, schedule: Any, *_: Any) -> bool:
    stored = db.get_schedule(schedule["schedule_name"])
    return stored is not None and stored["schedule_id"] == schedule["schedule_id"]


_DONE: dict[str, Callable[..., bool]] = {
    "create_schedule": _scheduled,
    "fork_workflow": _forked,
    "rewind_workflow": _rewound,
}
"""Checks whether an attempt whose answer was lost took effect, for methods that refuse a repetition."""


def _waiting_classmethod(original: Any) -> Any:
    function = original.__func__

    @wraps(function)
    def method(cls: Any, *args: Any, **options: Any) -> Any:
        retried = function if DBOS.workflow_id is None else patiently(function)
        return retried(cls, *args, **options)

    return classmethod(method)


def _waiting_coroutine(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    async def method(*args: Any, **options: Any) -> Any:
        while True:
            try:
                return await original(*args, **options)
            except Exception as error:
                if not (_is_retried(error) or isinstance(error, sa.exc.TimeoutError)):
                    raise
            await asyncio.sleep(random.uniform(0.3, 0.7))  # noqa: S311

    return method
