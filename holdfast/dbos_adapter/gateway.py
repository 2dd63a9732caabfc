"""Gives HTTP handlers access to PostgreSQL: by clients that fail fast, not by DBOS's patient retries."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

import psycopg2
import sqlalchemy as sa
from dbos import DBOSClient, EnqueueOptions

from holdfast.dbos_adapter.registrations import pickled_input
from holdfast.dbos_adapter.round_trips import POOL_OPTIONS
from holdfast.dbos_adapter.schema import sqlalchemy_url
from holdfast.dbos_adapter.serializer import json_serializer
from holdfast.errors import DatabaseBusy, DatabaseUnavailable, StatementTimeout
from holdfast.postgres import budget
from holdfast.postgres.database import METRICS_USER, OpsPool, PoolExhausted, Row, time_limits
from holdfast.postgres.outage import is_outage, unavailable
from holdfast.postgres.sessions import SESSION_OPTIONS
from holdfast.postgres.statements import sql
from holdfast.settings import Settings

log = logging.getLogger("holdfast.gateway")

P = ParamSpec("P")
T = TypeVar("T")

# A slow PostgreSQL (200 ms more per round trip make an enqueue last 2 s) is worth a longer wait than an
# outage. The heartbeat distinguishes the two.
_SLOW_SECONDS = 8.0
_LATE_HEARTBEAT_SECONDS = 0.5
_POLL_SECONDS = 0.1


class Gateway:
    """Gives access to a lazy DBOS client and to named ops statements. Each call is bounded in time.

    ``database_up`` returns whether the executor's heartbeats succeed. While they do not, calls fail
    immediately instead of queueing. ``heartbeat_age_seconds`` returns the time since the last successful
    heartbeat.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        purpose: str,
        database_up: Callable[[], bool],
        heartbeat_age_seconds: Callable[[], float],
    ) -> None:
        self._timeout_seconds = settings.database_timeout_seconds
        self._latest_heartbeat_seconds = settings.heartbeat_seconds + _LATE_HEARTBEAT_SECONDS
        self._database_up = database_up
        self._heartbeat_age_seconds = heartbeat_age_seconds
        self._threads = ThreadPoolExecutor(max_workers=2 * budget.CLIENT, thread_name_prefix="gateway")
        self._engine = sa.create_engine(
            sqlalchemy_url(settings.database_url),
            pool_size=budget.CLIENT,
            max_overflow=0,
            pool_timeout=self._timeout_seconds,
            **POOL_OPTIONS,
            connect_args={
                "application_name": f"{purpose}/client",
                **SESSION_OPTIONS,
                "connect_timeout": 2,
                "options": time_limits(self._timeout_seconds),
            },
        )
        self.client = DBOSClient(
            system_database_engine=self._engine,
            serializer=json_serializer(),
            lazy=True,
            retry_connection_errors=False,
        )
        self.pool = OpsPool(
            settings, purpose=f"{purpose}/ops", size=budget.REQUESTS, wait_seconds=self._timeout_seconds
        )
        # A separate role may only read what /metrics shows.
        self.metrics = OpsPool(
            settings,
            purpose=f"{purpose}/figures",
            size=budget.METRICS,
            wait_seconds=self._timeout_seconds,
            user=METRICS_USER,
        )

    def enqueue(
        self,
        options: EnqueueOptions,
        args: tuple[Any, ...],
        children: dict[str, Any] | None = None,
        *,
        kwargs: dict[str, Any] | None = None,
        as_pickle: bool = False,
    ) -> None:
        """Stores a workflow and any ``children`` (`children.statement_params`) in one transaction. Blocks.

        ``as_pickle`` stores the input as `pickled_input`. An existing workflow stays unchanged. Raises
        SQLAlchemy's errors.
        """
        with self._engine.begin() as connection:
            self.client.enqueue_in_transaction(connection, options, *args, **(kwargs or {}))
            if as_pickle:
                inputs = pickled_input(args, kwargs or {})
                params = {"workflow_id": options["workflow_id"], "inputs": inputs}
                connection.exec_driver_sql(sql("store_pickled_input"), params)
            if children is not None:
                connection.exec_driver_sql(sql("enqueue_children"), children)

    async def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a blocking function that uses PostgreSQL, in a thread.

        Raises ``DatabaseUnavailable`` during an outage, or when PostgreSQL does not answer within
        ``database_timeout_seconds``. While heartbeats succeed it is only slow: then the limit is 8 s, and the
        error is a subclass that says so. The thread ends by its own statement timeout.
        """
        if not self._database_up():
            raise DatabaseUnavailable
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._threads, partial(function, *args, **kwargs))
        try:
            await self._patience(work)
            return await work
        except (sa.exc.TimeoutError, PoolExhausted) as error:
            raise (DatabaseBusy if self._heartbeats_succeed() else DatabaseUnavailable) from error
        except (psycopg2.Error, sa.exc.DBAPIError) as error:
            if is_outage(error):
                raise unavailable(error) from error
            raise

    def _heartbeats_succeed(self) -> bool:
        return self._heartbeat_age_seconds() <= self._latest_heartbeat_seconds

    async def _patience(self, work: asyncio.Future[T]) -> None:
        """Returns once the work is done. Raises ``DatabaseUnavailable`` if it takes too long."""
        loop = asyncio.get_running_loop()
        began, pause = loop.time(), self._timeout_seconds
        try:
            while not (await asyncio.wait({work}, timeout=pause))[0]:
                if not self._heartbeats_succeed():
                    raise DatabaseUnavailable
                if loop.time() - began >= _SLOW_SECONDS:
                    raise StatementTimeout
                pause = _POLL_SECONDS
        finally:
            work.cancel()  # has no effect on finished work

    async def ops(self, statement: str, /, **params: Any) -> list[Row]:
        """Runs a named ops statement. Raises ``DatabaseUnavailable`` as :meth:`call` does."""
        return await self.call(self.pool.run, statement, **params)

    def close(self) -> None:
        """Closes every connection."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.client.destroy()
        self._engine.dispose()
        self.pool.close()
        self.metrics.close()
