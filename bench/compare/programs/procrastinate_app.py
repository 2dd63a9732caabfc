"""procrastinate: tasks over PostgreSQL with LISTEN/NOTIFY, which its workers use by default.

It keeps no results: the task writes its own into a table of the same database and says so by NOTIFY, in
one transaction, and the driver listens. Default: the jobs of a dead worker are not retried. Tuned: heartbeats
every second, and the documented task that retries stalled jobs, every second too.
"""

from __future__ import annotations

import asyncio
import json
import sys
from importlib.metadata import version
from typing import Any

import psycopg
from procrastinate import App, JobContext, PsycopgConnector, SyncPsycopgConnector
from procrastinate.exceptions import ConnectorException
from psycopg_pool import ConnectionPool

from bench.compare.programs import common
from bench.compare.programs.common import OPTIONS, TUNED, Done

DSN = OPTIONS.get("url", "")
WORKING = len(sys.argv) > 1 and sys.argv[1] == "worker"
BEAT_SECONDS, STALLED_SECONDS = 1.0, 5.0

app = App(connector=PsycopgConnector(conninfo=DSN) if WORKING else SyncPsycopgConnector(conninfo=DSN))
pool = ConnectionPool(DSN, min_size=1, max_size=2, open=False, kwargs={"autocommit": False})


@app.task(pass_context=True)
def job(context: JobContext, n: int, key: str) -> None:
    """One job; its result is a row."""
    done = common.compute(n, key)
    with pool.connection() as connection:
        connection.execute(
            "INSERT INTO results (job_id, done) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            (context.job.id, json.dumps(done)),
        )
        connection.execute("SELECT pg_notify('job_done', %s)", (str(context.job.id),))


if TUNED:

    @app.periodic(cron="* * * * * *")
    @app.task(queueing_lock="retry_stalled")
    async def retry_stalled(timestamp: int) -> None:  # noqa: ARG001 - the period is passed
        """As the documentation has it, with shorter times."""
        for stalled in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=STALLED_SECONDS):
            await app.job_manager.retry_job(stalled)


async def work() -> None:
    """One worker until SIGTERM."""
    pool.open(wait=True)
    options: dict[str, Any] = {"concurrency": 1, "name": f"worker-{OPTIONS['worker']}"}
    if TUNED:
        options |= {"update_heartbeat_interval": BEAT_SECONDS, "stalled_worker_timeout": STALLED_SECONDS}
    async with app.open_async():
        common.worker_ready()
        await app.run_worker_async(**options)


def prepare() -> None:
    """The schema, once a database."""
    with psycopg.connect(DSN, autocommit=True) as connection:
        connection.execute("CREATE TABLE results (job_id bigint PRIMARY KEY, done jsonb NOT NULL)")
    with app.open():
        app.schema_manager.apply_schema()


class Driver(common.Driver):
    """Defers jobs and listens for the ends."""

    def __init__(self) -> None:
        app.open()
        self.listening = psycopg.connect(DSN, autocommit=True)
        self.listening.execute("LISTEN job_done")

    def versions(self) -> dict[str, str]:
        return {"procrastinate": version("procrastinate")}

    def _wait(self, ids: list[int]) -> list[Done]:
        missing = set(ids)
        while missing:
            for notice in self.listening.notifies(timeout=5, stop_after=1):
                missing.discard(int(notice.payload))
            if missing:
                # What was said in one go with the first.
                for notice in self.listening.notifies(timeout=0):
                    missing.discard(int(notice.payload))
        rows = self.listening.execute("SELECT done FROM results WHERE job_id = ANY(%s)", (ids,)).fetchall()
        return [row[0] for row in rows]

    def in_turn(self, n: int, count: int) -> list[Done]:
        return [self._wait([job.defer(n=n, key="")])[0] for _ in range(count)]

    def at_once(self, n: int, count: int) -> list[Done]:
        return self._wait(job.batch_defer(*[{"n": n, "key": ""} for _ in range(count)]))

    def begin(self, n: int, key: str) -> Any:
        return job.defer(n=n, key=key)

    def finish(self, begun: Any) -> Done:
        return self._wait([begun])[0]


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        prepare()
    elif WORKING:
        try:
            asyncio.run(work())
        except ConnectorException as error:
            sys.exit(str(error))
    else:
        common.serve(Driver())
