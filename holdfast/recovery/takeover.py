"""Returns the unfinished work of an executor to the queues, after its death or at its drain."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, Self, TypedDict

import psycopg2

from holdfast.executor_settings import ExecutorSettings
from holdfast.identity import Identity
from holdfast.postgres.database import Connection, Row, connect, query, savepoint, transaction
from holdfast.postgres.outage import is_refusal_of_data, sqlstate
from holdfast.recovery.blame import InFlight, Verdict, judge, separation_seconds
from holdfast.recovery.parking import park_workflows

log = logging.getLogger("holdfast.takeover")

Kind = Literal["takeover", "handover", "orphan"]


@dataclass(frozen=True)
class LostExecutor:
    """An executor whose work is released, of any application and version, with the queues it registered."""

    executor_id: str
    application: str
    version: str
    suspects_queue: str
    trials_queue: str
    leaf_queues: Collection[str]

    @classmethod
    def from_row(cls, row: Row, judge: Identity) -> Self:
        """Reads an executor as it registered.

        Older code registers no queues. Then the judging executor's queues are used if it is of the same
        application. Otherwise all queues count as queues of parents.
        """
        names = {key: row[key] for key in ("executor_id", "application", "version")}
        queues: dict[str, Any] = {key: row[key] for key in _QUEUES}
        if row["leaf_queues"] is None:
            same = row["application"] == judge.application
            queues = {key: getattr(judge, key) if same else "" for key in _QUEUES}
        return cls(**names, **queues)


_QUEUES = ("suspects_queue", "trials_queue", "leaf_queues")


def release(
    connection: Connection,
    identity: Identity,
    lost: LostExecutor | Identity,
    *,
    kind: Kind,
    reason: str,
    crash_limit: int,
    lost_at: datetime | None = None,
    died: bool = False,
    delay_seconds: float = 0.0,
    lease_seconds: float = 0.0,
    only_waiting: bool = False,
    only: Collection[str] | None = None,
) -> list[Verdict]:
    """Returns the unfinished work of an executor to the queues, and returns the verdict on each workflow.

    Runs inside the caller's transaction. ``only_waiting`` restricts it to waiting workflows, ``only`` to
    these ids. ``died`` counts a crash for the workflows to blame, which can be claimed again only after
    ``delay_seconds``. ``lease_seconds`` is the unit of the delay that separates some of them. A workflow
    keeps its application and version, so that only their code continues it. ``identity`` is the caller's.
    """
    executor_id = lost.executor_id
    rows = query(
        connection,
        "unfinished_work",
        executor_id=executor_id,
        application=lost.application,
        version=lost.version,
        only=None if only is None else list(only),
        only_waiting=only_waiting,
    )
    verdicts = judge(
        [InFlight(**row) for row in rows],
        died=died,
        crash_limit=crash_limit,
        suspects_queue=lost.suspects_queue,
        trials_queue=lost.trials_queue,
        leaf_queues=lost.leaf_queues,
    )
    how: _How = {
        "executor_id": executor_id,
        "by": identity,
        "kind": kind,
        "reason": reason,
        "lost_at": lost_at,
        "delay_seconds": delay_seconds,
        "lease_seconds": lease_seconds,
    }
    return _move_all(connection, verdicts, how) if verdicts else []


class _How(TypedDict):
    """What all workflows of one release have in common."""

    executor_id: str
    by: Identity
    kind: Kind
    reason: str
    lost_at: datetime | None
    delay_seconds: float
    lease_seconds: float


def _move_all(connection: Connection, verdicts: list[Verdict], how: _How) -> list[Verdict]:
    """Writes the verdicts. A row that PostgreSQL refuses costs only itself: then each is moved alone.

    A refused row is parked only if another row went back to a queue. Otherwise all of them may share the
    cause, such as a trigger or a missing partition: they stay, and are released again as orphans. Nor is
    one parked while its executor lives, which hands work over.
    """
    if _refusal(connection, verdicts, how) is None:
        return verdicts
    moved: list[Verdict] = []
    refused: list[Verdict] = []
    for verdict in verdicts:
        if (error := _refusal(connection, [verdict], how)) is None:
            moved.append(verdict)
            continue
        refused.append(verdict)
        extra = {"action": "workflow.refused", "workflow_ids": [verdict.work.workflow_id]}
        text = "cannot release %s (SQLSTATE %s): PostgreSQL refuses to change its row"
        log.error(text, verdict.work.workflow_id, sqlstate(error), extra=extra)
    if how["kind"] == "handover" or all(v.action == "park" for v in moved):
        return moved
    return moved + [v for each in refused for v in _park_refused(connection, each, how)]


def _refusal(connection: Connection, verdicts: list[Verdict], how: _How) -> psycopg2.Error | None:
    """Writes these verdicts, or none of them if PostgreSQL refuses one. Returns the refusal."""
    try:
        with savepoint(connection):
            _move(connection, verdicts, how)
    except psycopg2.Error as error:
        if not is_refusal_of_data(error):
            raise
        return error
    return None


def _park_refused(connection: Connection, verdict: Verdict, how: _How) -> list[Verdict]:
    """Parks a workflow whose row cannot be moved. If that is refused too, the row stays as it is."""
    try:
        with savepoint(connection):
            park_workflows(connection, [verdict.work.workflow_id], how["executor_id"])
    except psycopg2.Error as error:
        if not is_refusal_of_data(error):
            raise
        return []
    return [replace(verdict, action="park", counted=False)]


def _move(connection: Connection, verdicts: list[Verdict], how: _How) -> None:
    executor_id = how["executor_id"]
    _count_crashes(connection, [v for v in verdicts if v.counted])
    query(
        connection,
        "record_handovers",
        workflow_ids=[v.work.workflow_id for v in verdicts],
        workflow_names=[v.work.name for v in verdicts],
        executor_id=executor_id,
        by=how["by"].executor_id,
        kind=how["kind"],
        reason=how["reason"],
        lost_at=how["lost_at"],
    )
    park_workflows(connection, [v.work.workflow_id for v in verdicts if v.action == "park"], executor_id)
    released = [v for v in verdicts if v.action != "park"]
    if waiting := [v.work.workflow_id for v in released if v.work.waits]:
        query(connection, "keep_waits", workflow_ids=waiting)
    query(
        connection,
        "release_work",
        executor_id=executor_id,
        workflow_ids=[v.work.workflow_id for v in released],
        queues=[v.queue_name for v in released],
        waits=[v.work.waits for v in released],
    )
    _delay(connection, [v for v in released if v.counted], how["delay_seconds"], how["lease_seconds"])


def _delay(connection: Connection, again: list[Verdict], delay_seconds: float, lease_seconds: float) -> None:
    delays: dict[float, list[str]] = {}
    for verdict in again:
        turn = separation_seconds(verdict.crashes, lease_seconds) if verdict.waits_its_turn else 0.0
        delays.setdefault(max(delay_seconds, turn), []).append(verdict.work.workflow_id)
    for seconds, workflow_ids in delays.items():
        if seconds:
            query(connection, "delay_work", workflow_ids=workflow_ids, seconds=seconds)


def _count_crashes(connection: Connection, counted: list[Verdict]) -> None:
    if counted:
        query(
            connection,
            "count_crashes",
            workflow_ids=[v.work.workflow_id for v in counted],
            crashes=[v.crashes for v in counted],
            steps=[v.work.steps_recorded for v in counted],
            queues=[v.work.home_queue or v.work.queue_name for v in counted],
            parked=[v.action == "park" for v in counted],
        )


@dataclass(frozen=True)
class HandoverResult:
    """The work that a draining executor handed over, and the ids still recorded as running here (`left`)."""

    verdicts: list[Verdict]
    left: frozenset[str]


def hand_over(
    settings: ExecutorSettings, identity: Identity, *, only_waiting: bool, drain_seconds: float = 0.0
) -> HandoverResult | None:
    """Hands over the work of this draining executor to the queues. Returns None if the database call failed.

    Without ``only_waiting`` it hands over all remaining work, and in the same transaction records the
    executor as drained, with the duration of the drain.
    """
    try:
        connection = connect(settings, purpose=identity.purpose("drain"))
        try:
            with transaction(connection):
                verdicts = release(
                    connection,
                    identity,
                    identity,
                    kind="handover",
                    reason="drain",
                    crash_limit=settings.crash_limit,
                    only_waiting=only_waiting,
                )
                left = query(
                    connection,
                    "own_work",
                    executor_id=identity.executor_id,
                    application=identity.application,
                    version=identity.version,
                )
                if not only_waiting:
                    query(
                        connection,
                        "leave",
                        executor_id=identity.executor_id,
                        reason="drained",
                        drain_seconds=drain_seconds,
                    )
        finally:
            connection.close()
    except psycopg2.Error as error:
        # Peers take the work over after the lease ends.
        log.warning("handover failed: %s", str(error).strip(), extra={"action": "executor.hand_over_failed"})
        return None
    return HandoverResult(verdicts, frozenset(row["workflow_id"] for row in left))


def release_claim(
    settings: ExecutorSettings,
    identity: Identity,
    workflow_id: str,
    *,
    reason: str,
    only_waiting: bool = False,
) -> bool:
    """Returns one claimed workflow of this executor to its queue, with ``only_waiting`` only if it waits.

    Returns whether it was released. Raises ``psycopg2.Error``.
    """
    connection = connect(settings, purpose=identity.purpose("trial"))
    try:
        with transaction(connection):
            verdicts = release(
                connection,
                identity,
                identity,
                kind="handover",
                reason=reason,
                crash_limit=settings.crash_limit,
                only_waiting=only_waiting,
                only={workflow_id},
            )
        return bool(verdicts)
    finally:
        connection.close()
