"""The effect ledger: an outside effect and DBOS's marker of its step, committed together."""

from __future__ import annotations

import asyncio

import sqlalchemy as sa
from dbos import DBOS, SQLAlchemyDatasource

from services.runtime import connections
from services.runtime.round_trips import POOL_OPTIONS, SESSION_OPTIONS
from services.runtime.schema import sqlalchemy_url
from services.runtime.serializer import json_serializer
from services.settings import Settings

_INSERT = sa.text(
    "INSERT INTO ops.effects (workflow_id, effect_key, executor_id, n, sha256) "
    "VALUES (:workflow_id, :effect_key, :executor_id, :n, :sha256)"
)


class EffectLedger:
    """Writes effects through a DBOS datasource over psycopg 3.

    READ COMMITTED and one short statement: over psycopg 2, or serializable, concurrent effects fail
    with serialization errors that nobody retries.
    """

    def __init__(self, settings: Settings, *, purpose: str) -> None:
        self._source = SQLAlchemyDatasource.create(
            sqlalchemy_url(settings.database_url),
            engine_kwargs={
                "pool_size": connections.EFFECTS,
                "max_overflow": 0,
                **POOL_OPTIONS,
                "connect_args": {"application_name": purpose, **SESSION_OPTIONS},
            },
            schema="dbos",
            serializer=json_serializer(),
            run_migrations=False,
        )

        # The name is stored with the step: durable.
        @self._source.transaction(name="effects.record", isolation_level="READ COMMITTED")
        def record(workflow_id: str, effect_key: str, executor_id: str, n: int, sha256: str) -> str:
            self._source.sql_session().execute(
                _INSERT,
                {
                    "workflow_id": workflow_id,
                    "effect_key": effect_key,
                    "executor_id": executor_id,
                    "n": n,
                    "sha256": sha256,
                },
            )
            return effect_key

        self._record = record

    async def record(self, *, executor_id: str, n: int, sha256: str) -> str:
        """Writes the calling workflow's effect once and returns its key. Call inside a workflow."""
        workflow_id = DBOS.workflow_id
        if workflow_id is None:
            raise RuntimeError("an effect belongs to a workflow")
        # The datasource is synchronous: its pool belongs to no event loop.
        return await asyncio.to_thread(
            self._record, workflow_id, f"{workflow_id}:effect", executor_id, n, sha256
        )
