"""The least that a queue over PostgreSQL can be: two processes, one row a job, LISTEN and NOTIFY.

No lease, no recovery, no retry: a floor to measure a durable queue against on the same machine, under the
same load and on the same server. The worker is ``python -m bench.compare.exchange`` with libpq's variables
in its environment.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from contextlib import closing
from typing import Any

import psycopg2

from bench.compare.processes import NotMeasured
from holdfast.installations.embedded import ROOT
from services.worker.fibonacci.rule import recursive

_WAIT_SECONDS = 30.0


def _notice(connection: Any) -> str:
    """The payload of the next notice."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while not connection.notifies:
        readable, _, _ = select.select([connection], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            raise NotMeasured(f"no notice within {_WAIT_SECONDS:g} s")
        connection.poll()
    return str(connection.notifies.pop(0).payload)


def _work() -> None:
    """Claims and ends each job that it reads, each in its own commit, until standard input ends."""
    with closing(psycopg2.connect("")) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("LISTEN exchange_job")
        print("ready", flush=True)
        while True:
            job = _notice(connection)
            cursor.execute("UPDATE exchange SET state = 'running' WHERE id = %s RETURNING n", (job,))
            (n,) = cursor.fetchone()
            cursor.execute(
                "UPDATE exchange SET state = 'done', result = %s WHERE id = %s"
                " RETURNING pg_notify('exchange_done', id::text)",
                (recursive(n), job),
            )


def seconds_a_job(where: dict[str, str], n: int, count: int) -> float:
    """Seconds for a job of F(n), each sent after the former's result; ``where`` are libpq's variables."""
    environment = {**os.environ, **where}
    worker = subprocess.Popen(
        [sys.executable, "-m", "bench.compare.exchange"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    names = {
        "PGHOST": "host",
        "PGPORT": "port",
        "PGUSER": "user",
        "PGPASSWORD": "password",
        "PGDATABASE": "dbname",
    }
    try:
        with closing(psycopg2.connect(**{names[key]: text for key, text in where.items()})) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute("DROP TABLE IF EXISTS exchange")
            cursor.execute("CREATE TABLE exchange (id int PRIMARY KEY, state text, n int, result bigint)")
            cursor.execute("LISTEN exchange_done")
            assert worker.stdout is not None and worker.stdout.readline()
            begun = time.perf_counter()
            for job in range(count):
                cursor.execute(
                    "INSERT INTO exchange VALUES (%s, 'waiting', %s) RETURNING pg_notify('exchange_job', %s)",
                    (job, n, str(job)),
                )
                _notice(connection)
                cursor.execute("SELECT result FROM exchange WHERE id = %s", (job,))
                if cursor.fetchone() != (recursive(n),):
                    raise NotMeasured(f"job {job} has a wrong result")
            seconds = time.perf_counter() - begun
            cursor.execute("DROP TABLE exchange")
            return seconds / count
    finally:
        worker.kill()
        worker.wait()


if __name__ == "__main__":
    _work()
