"""The effect ledger: an external effect and the record of its step are committed together."""

from __future__ import annotations

from typing import Any

from dbos import DBOS, SQLAlchemyDatasource
from dbos import error as dbos_error
from dbos._context import current_owner_xid

from holdfast.dbos_adapter.retries import patiently
from holdfast.dbos_adapter.round_trips import POOL_OPTIONS, recorded_with_its_effect
from holdfast.dbos_adapter.schema import sqlalchemy_url
from holdfast.dbos_adapter.serializer import json_serializer
from holdfast.postgres import budget
from holdfast.postgres.sessions import SESSION_OPTIONS, Sessions
from holdfast.settings import Settings

# The name is durable: it is stored with the step.
STEP = "effects.record"


class EffectLedger:
    """Writes effects into DBOS's own database.

    ``datasource`` is DBOS's, over psycopg 3, for effects of any number of statements (``transaction``). It
    commits them with a marker of their step, records the step separately, and finally deletes the marker:
    seventeen round trips. `record` is a short transaction of one statement, which writes an effect and, as
    its marker, the step's own record: one round trip. A second execution finds the same
    (tests/integration/dbos_adapter/test_ledger.py).
    """

    def __init__(self, settings: Settings, sessions: Sessions, *, application: str, purpose: str) -> None:
        self._application = application
        self._serializer = json_serializer()
        self._sessions = sessions
        self.datasource = SQLAlchemyDatasource.create(
            sqlalchemy_url(settings.database_url),
            engine_kwargs={
                "pool_size": budget.EFFECTS,
                "max_overflow": 0,
                **POOL_OPTIONS,
                "connect_args": {"application_name": purpose, **SESSION_OPTIONS},
            },
            schema="dbos",
            serializer=json_serializer(),
            run_migrations=False,
        )

    def record(self, effect: str, *, executor_id: str, n: int, sha256: str) -> str:
        """Writes an effect of the calling workflow once and returns its key. Call inside a workflow.

        ``effect`` names the effect within its workflow.
        """
        workflow_id = DBOS.workflow_id
        if workflow_id is None:
            raise RuntimeError("an effect belongs to a workflow")
        return DBOS.run_step(
            {"name": STEP},
            self._write,
            f"{workflow_id}:{effect}",
            executor_id=executor_id,
            n=n,
            sha256=sha256,
        )

    def _write(self, effect_key: str, **effect: Any) -> str:
        workflow_id, step_id = str(DBOS.workflow_id), DBOS.step_id
        assert step_id is not None
        rows = patiently(self._sessions.run)(
            "record_effect",
            workflow_uuid=workflow_id,
            function_id=step_id,
            function_name=STEP,
            application=self._application,
            owner_xid=current_owner_xid(workflow_id),
            output=self._serializer.serialize(effect_key),
            serialization=self._serializer.name(),
            effect_key=effect_key,
            **effect,
        )
        if not rows:
            raise dbos_error.DBOSWorkflowConflictIDError(workflow_id)
        recorded_with_its_effect(workflow_id, step_id)
        return effect_key
