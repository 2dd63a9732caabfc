"""What is measured of Holdfast alone: more workers, workflows without a step, what enqueueing costs, the API
beside saturated CPUs, memory."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from dbos import DBOSClient, DBOSPortableJSONSerializer

from bench.compare import stepless
from bench.compare.bench_worker import CONCURRENCY
from bench.compare.cases import TINY_COUNT, TINY_N, Case, Context
from bench.compare.holdfast import Holdfast, resident_megabytes
from bench.compare.processes import NotMeasured
from bench.compare.summaries import percentile
from holdfast.installations.embedded import ROOT
from holdfast.settings import Settings
from tests.support.names import FIBONACCI_QUEUE
from tests.support.native_stack import NativeStack
from tests.support.stack import wait_for

WORKER_COUNTS = (1, 2, 4, 8)
IDLE_SECONDS = 10.0
# PostgreSQL's sessions report their last transactions up to ten seconds late.
REPORT_DELAY_SECONDS = 12.0
STEPLESS_COUNT = 5000
CLIENT_THREADS = 4
LOAD_SECONDS = 20.0
WORKER_APPLICATION = "holdfast-worker"
WORKER_VERSION = f"worker-{Settings.model_fields['application_version'].default}"


def transactions(stack: NativeStack) -> int:
    """Transactions of the stack's database so far."""
    statement = "SELECT xact_commit + xact_rollback AS n FROM pg_stat_database WHERE datname = 'holdfast'"
    return int(stack.query(statement)[0]["n"])


def idle_rate(stack: NativeStack, seconds: float = IDLE_SECONDS) -> float:
    """Transactions per second while the stack is idle."""
    begun, before = time.monotonic(), transactions(stack)
    time.sleep(seconds)
    # Both queries count their own transactions: connect, query.
    return (transactions(stack) - before - 2) / (time.monotonic() - begun)


def workers(_: Holdfast, context: Context) -> dict[str, Any]:
    """1,000 tiny jobs, and the idle stack's transactions, with 1, 2, 4 and 8 workers."""
    jobs: dict[str, float] = {}
    idle: dict[str, float] = {}
    for count in WORKER_COUNTS:
        holdfast = Holdfast(workers=count)
        with holdfast.running(context.home / str(count)):
            jobs[str(count)] = TINY_COUNT / holdfast.at_once(TINY_N, TINY_COUNT, 120)
            time.sleep(REPORT_DELAY_SECONDS)
            idle[str(count)] = idle_rate(holdfast.running_stack)
    return {"jobs_a_second": jobs, "idle_transactions": idle}


# --- without the API: DBOS's own client, as the API uses it ---------------------------------


@contextmanager
def client(stack: NativeStack) -> Iterator[DBOSClient]:
    """A client with the API's rights and serializer."""
    where = f"holdfast_api@127.0.0.1:{stack.state['postgres']['port']}/holdfast"
    passfile = stack.state["passfiles"]["api"]
    made = DBOSClient(
        system_database_url=f"postgresql+psycopg://{where}?passfile={passfile}",
        application_name=WORKER_APPLICATION,
        serializer=DBOSPortableJSONSerializer(),
        system_database_pool_size=CLIENT_THREADS + 1,
    )
    try:
        yield made
    finally:
        made.destroy()


def set_concurrency(stack: NativeStack, queue: str, workers_each: int) -> None:
    """How many workflows of a queue one worker claims; 0 pauses it. Workers see it within a second."""
    with closing(stack.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE dbos.queues SET worker_concurrency = %s WHERE name = %s", (workers_each, queue)
        )
        changed = cursor.rowcount
        connection.commit()
    if changed != 1:
        raise NotMeasured(f"no queue {queue}")
    time.sleep(2.5)


class BenchStack(NativeStack):
    """The native stack with the benchmark's worker."""

    command_module = "bench.compare.native"


class HoldfastStepless(Holdfast):
    """Holdfast with the benchmark's worker."""

    def new_stack(self, home: Path) -> NativeStack:
        return BenchStack(home, workers=self.worker_count, **self.settings)


def stepless_workflows(_: Holdfast, context: Context) -> dict[str, Any]:
    """5,000 workflows without a step wait in a queue; then two workers run 50 each concurrently.

    The rate is from the first claim to the last recorded end, both as the database has them: claiming,
    running and recording, without the enqueueing, which is timed by itself.
    """
    holdfast = HoldfastStepless()
    with holdfast.running(context.home):
        stack = holdfast.running_stack
        set_concurrency(stack, stepless.QUEUE, 0)
        with client(stack) as enqueuing:

            def enqueue(number: int) -> None:
                options = {
                    "workflow_name": stepless.NAME,
                    "queue_name": stepless.QUEUE,
                    "application_name": WORKER_APPLICATION,
                    "app_version": WORKER_VERSION,
                    "workflow_id": f"stepless-{number}",
                }
                enqueuing.enqueue(options, number)  # type: ignore[arg-type]

            begun = time.perf_counter()
            with ThreadPoolExecutor(CLIENT_THREADS) as threads:
                list(threads.map(enqueue, range(STEPLESS_COUNT)))
            enqueued = STEPLESS_COUNT / (time.perf_counter() - begun)
            set_concurrency(stack, stepless.QUEUE, CONCURRENCY)
            statement = (
                "SELECT count(*) AS n, min(started_at_epoch_ms) AS first, max(completed_at) AS last"
                f" FROM dbos.workflow_status WHERE name = '{stepless.NAME}' AND status = 'SUCCESS'"
            )

            def ended() -> dict[str, Any] | None:
                row = stack.query(statement)[0]
                return row if row["n"] == STEPLESS_COUNT else None

            row = wait_for(ended, 120, f"{STEPLESS_COUNT} workflows without a step", pause_seconds=0.5)
            found = enqueuing.list_workflows(name=stepless.NAME, load_input=False, limit=STEPLESS_COUNT)
            if sorted(status.output for status in found) != list(range(STEPLESS_COUNT)):
                raise NotMeasured("the results of the workflows without a step do not hold")
        seconds = (row["last"] - row["first"]) / 1000
    return {"workflows_a_second": STEPLESS_COUNT / seconds, "enqueued_a_second": enqueued}


def enqueueing(_: Holdfast, context: Context) -> dict[str, Any]:
    """Statements that a batch of 50 and one of 1,000 cost until all numbers are enqueued.

    The numbers' queue is held back meanwhile. pg_stat_statements counts them, but for those that the idle
    stack runs too (BEGIN and COMMIT among them): without pipelining each is a round trip.
    """
    found: dict[str, Any] = {}
    holdfast = Holdfast()
    with holdfast.running(context.home):
        stack = holdfast.running_stack
        with closing(stack.connect_superuser()) as connection:
            connection.autocommit = True
            connection.cursor().execute("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
        with stack.postgres_down():
            pass
        with closing(stack.connect_superuser()) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute("CREATE EXTENSION pg_stat_statements")
            stack.workers()
            set_concurrency(stack, FIBONACCI_QUEUE, 0)
            time.sleep(5)

            def calls() -> Counter[int]:
                cursor.execute(
                    "SELECT queryid, sum(calls) FROM pg_stat_statements WHERE toplevel AND userid <>"
                    " (SELECT oid FROM pg_roles WHERE rolname = current_user) GROUP BY 1"
                )
                return Counter({query: int(count) for query, count in cursor.fetchall()})

            def enqueued(batch_id: str, count: int) -> bool:
                cursor.execute(
                    "SELECT count(*) FROM dbos.workflow_status WHERE parent_workflow_id = %s"
                    " AND status = 'ENQUEUED'",
                    (batch_id,),
                )
                return bool(cursor.fetchall()[0][0] == count)

            before = calls()
            time.sleep(IDLE_SECONDS)
            idle = set(calls() - before)
            for count in (50, 1000):
                before = calls()
                batch_id = holdfast.submit([TINY_N] * count)
                wait_for(lambda: enqueued(batch_id, count), 60, "the batch enqueued", pause_seconds=0.25)  # noqa: B023
                time.sleep(1)
                own = {query: times for query, times in (calls() - before).items() if query not in idle}
                found[f"round_trips_{count}"] = sum(own.values())
    found["more_round_trips"] = found["round_trips_1000"] - found["round_trips_50"]
    return found


# --- on the running stack -------------------------------------------------------------------


def api_under_load(holdfast: Holdfast, _: Context) -> dict[str, Any]:
    """200 requests per second for 20 s while every core computes."""
    stack = holdfast.running_stack
    heavy = [holdfast.submit([34] * 200) for _ in range(2)]
    try:
        wait_for(lambda: len(stack.running(heavy[0])) >= 2, 20, "the CPUs are busy")
        done = subprocess.run(
            [sys.executable, "-m", "bench.compare.load", stack.url, str(LOAD_SECONDS)],
            cwd=ROOT,
            input=stack.read_admin_token() + "\n",
            capture_output=True,
            text=True,
            timeout=LOAD_SECONDS + 60,
            check=False,
        )
    finally:
        for batch_id in heavy:
            holdfast.call("POST", f"/workflows/{batch_id}/cancel")
    if done.returncode != 0:
        raise NotMeasured(f"the load ended with {done.returncode}: {done.stderr[-300:]}")
    measured = json.loads(done.stdout)
    milliseconds: dict[str, list[float]] = measured["milliseconds"]
    answered = sum(len(values) for values in milliseconds.values())
    if not all(milliseconds.values()):
        raise NotMeasured(f"no request of a kind succeeded: {measured['statuses']}")
    found: dict[str, Any] = {
        "answered_a_second": answered / measured["seconds"],
        "failures": sum(measured["statuses"].values()) - answered,
        "statuses": measured["statuses"],
    }
    for kind, values in milliseconds.items():
        found |= {f"{kind}_p50_ms": percentile(values, 0.5), f"{kind}_p99_ms": percentile(values, 0.99)}
    _until_idle(stack)
    return found


def _until_idle(stack: NativeStack) -> None:
    statement = (
        "SELECT count(*) AS n FROM dbos.workflow_status"
        " WHERE status IN ('ENQUEUED', 'PENDING') AND name LIKE 'fibonacci%'"
    )
    wait_for(lambda: not stack.query(statement)[0]["n"], 120, "the stack idle again", pause_seconds=0.5)


def memory(holdfast: Holdfast, _: Context) -> dict[str, Any]:
    """Resident memory of each process after the cases before."""
    stack = holdfast.running_stack
    members = stack.workers()
    children = [child.pid for member in members for child in stack.children(member)]
    return {
        "worker_megabytes": max(resident_megabytes(member.pid) for member in members),
        "child_megabytes": statistics.median(resident_megabytes(pid) for pid in children),
        "api_megabytes": resident_megabytes(stack.api().pid),
    }


RUNNING: tuple[Case, ...] = (
    Case("api", "API beside saturated CPUs", api_under_load, 240, holdfast_only=True),
    Case("memory", "resident memory", memory, 60, holdfast_only=True),
)
ALONE: tuple[Case, ...] = (
    Case("workers", "1, 2, 4, 8 workers", workers, 400, holdfast_only=True, alone=True),
    Case(
        "stepless", "5,000 workflows without a step", stepless_workflows, 240, holdfast_only=True, alone=True
    ),
    Case("enqueue", "enqueueing 1,000 and 50", enqueueing, 200, holdfast_only=True, alone=True),
)
