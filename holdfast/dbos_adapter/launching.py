"""Finds out when an application launches and destroys DBOS, and what its DBOS is configured with.

`hook` replaces the public ``DBOS.launch`` and ``DBOS.destroy``. The rest reads and sets what DBOS keeps to
itself. Private to DBOS and used here, with contract tests: ``dbos._dbos._dbos_global_instance``, the
attributes of the instance, ``dbos._utils.GlobalParams`` and the registry's internal queues.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import wraps
from typing import Any

import dbos._dbos
import psycopg
import psycopg2
import sqlalchemy as sa
from dbos import DBOS
from dbos._utils import GlobalParams
from psycopg.conninfo import make_conninfo
from psycopg2.extensions import make_dsn
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

DEFAULT_EXECUTOR_ID = "local"
"""What DBOS calls an executor that the application does not name."""

_HIDDEN_POLL_SECONDS = 60.0


@dataclass(frozen=True)
class Configured:
    """What an application configured its DBOS with."""

    application: str
    version: str
    executor_id: str
    database_url: str
    """Where libpq finds the system database; empty if it is not PostgreSQL."""
    schema: str
    listens_to_all: bool
    """Whether it runs all of its queues (no ``DBOS.listen_queues``)."""
    uses_conductor: bool
    is_launched: bool
    is_ours: bool
    """Whether Holdfast itself constructed this application."""


def hook(
    launch: Callable[[Any, Callable[[], None]], None], destroy: Callable[[Callable[[], None]], None]
) -> None:
    """Calls ``launch(instance, original)`` and ``destroy(original)`` instead of DBOS's own. Idempotent."""
    kind: Any = DBOS
    original_launch, original_destroy = kind.__dict__["launch"], kind.__dict__["destroy"]
    if hasattr(original_launch.__func__, "is_hooked"):
        return

    @wraps(original_launch.__func__)
    def launched(cls: Any, *args: Any, **options: Any) -> None:
        def go_on() -> None:
            original_launch.__func__(cls, *args, **options)

        instance = current_instance()
        if instance is None:
            go_on()  # raises DBOS's own error
        else:
            launch(instance, go_on)

    @wraps(original_destroy.__func__)
    def destroyed(cls: Any, *args: Any, **options: Any) -> None:
        destroy(lambda: original_destroy.__func__(cls, *args, **options))

    launched.is_hooked = True  # type: ignore[attr-defined]
    kind.launch, kind.destroy = classmethod(launched), classmethod(destroyed)


def current_instance() -> Any:
    """Returns the constructed DBOS of this process, or None."""
    return dbos._dbos._dbos_global_instance


def configured(application: Any) -> Configured:
    """Reads what a constructed application is configured with. Computes its version as DBOS does."""
    config = application._config
    version = GlobalParams.app_version or application._registry.compute_app_version(config["name"])
    engine = config.get("system_database_engine")
    url = sa.make_url(config["system_database_url"]) if engine is None else engine.url
    arguments = (config["database"].get("sys_db_engine_kwargs") or {}).get("connect_args") or {}
    return Configured(
        application=config["name"],
        version=version,
        executor_id=GlobalParams.executor_id,
        database_url=libpq_dsn(url, arguments),
        schema=config.get("dbos_system_schema") or "dbos",
        listens_to_all=application._listening_queues is None,
        uses_conductor=application.conductor_key is not None or GlobalParams.dbos_cloud,
        is_launched=application._launched,
        is_ours="waker" in vars(application),
    )


def identify(application: Any, *, executor_id: str, version: str, session_name: str) -> None:
    """Makes an application launch under this executor id, with its sessions named ``session_name``.

    Peers end the sessions of an executor that they declared dead by that name. A name that the application
    chose itself stays.
    """
    GlobalParams.executor_id = executor_id
    GlobalParams.app_version = version
    options = application._config["database"].get("sys_db_engine_kwargs")
    if options is not None and options["connect_args"].get("application_name") in (None, "dbos_transact"):
        options["connect_args"] = {**options["connect_args"], "application_name": session_name}


class DbosSessions:
    """Tracks the sessions of this process that have DBOS's session name, for a forked child to let go of."""

    def __init__(self, application: Any) -> None:
        options = application._config["database"].get("sys_db_engine_kwargs") or {}
        self._name = (options.get("connect_args") or {}).get("application_name")
        self._sessions: weakref.WeakSet[psycopg.Connection[Any]] = weakref.WeakSet()

    def start(self) -> None:
        """Begins to track. Call before the launch."""
        sa.event.listen(sa.pool.Pool, "connect", self._opened)

    def stop(self) -> None:
        """Ends it."""
        if sa.event.contains(sa.pool.Pool, "connect", self._opened):
            sa.event.remove(sa.pool.Pool, "connect", self._opened)

    def descriptors(self) -> list[int]:
        """Returns the sockets of the open sessions."""
        return [session.fileno() for session in list(self._sessions) if not session.closed]

    def _opened(self, session: Any, _record: object) -> None:
        if isinstance(session, psycopg.Connection) and self._name == session.info.parameter_status(
            "application_name"
        ):
            self._sessions.add(session)


def dbos_version() -> str:
    """Returns the version of the installed DBOS."""
    return str(GlobalParams.dbos_version)


def tasks(application: Any) -> Collection[asyncio.Task[Any]]:
    """Returns the tasks of the async workflows that run here."""
    found: Collection[asyncio.Task[Any]] = application._workflow_tasks
    return found


def add_hidden_queue(application: Any, name: str) -> None:
    """Adds a queue that runs one workflow at a time and exists in this process only, without a row.

    Notifications wake it, so it polls rarely.
    """
    application._registry._register_internal_queue(
        name, worker_concurrency=1, polling_interval_sec=_HIDDEN_POLL_SECONDS
    )


def libpq_dsn(url: sa.URL, arguments: dict[str, Any]) -> str:
    """Converts SQLAlchemy's URL, and the driver's ``arguments``, for libpq. Empty if not PostgreSQL."""
    if url.get_backend_name() != "postgresql":
        return ""
    dialect: Any = PGDialect_psycopg
    _, options = dialect().create_connect_args(url)
    given = {**options, **arguments}  # SQLAlchemy's order: the arguments win
    return str(make_dsn(**{name: given[name] for name in given if _is_known_to_libpq(name)}))


def _is_known_to_libpq(name: str) -> bool:
    """Whether it is an option of libpq, in the versions of both drivers, and not one of the driver."""
    try:
        make_dsn(**{name: "1"})
        make_conninfo(**{name: "1"})
    except (psycopg2.ProgrammingError, psycopg.ProgrammingError):
        return False
    return True
