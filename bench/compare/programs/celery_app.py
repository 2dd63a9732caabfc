"""celery with Redis as its broker and its result store.

Default: as its first steps show it, one pool process a worker. Tuned for safety: late acknowledgement,
one message prefetched, and a visibility timeout of a few seconds, which must stay above the longest job.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Any

from celery import Celery
from celery.signals import worker_ready

from bench.compare.programs import common
from bench.compare.programs.common import OPTIONS, TUNED, Done

VISIBILITY_SECONDS = 5

app = Celery("bench", broker=OPTIONS.get("broker"), backend=OPTIONS.get("backend"))
if TUNED:
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        # Looked for every second instead of every hundred.
        broker_transport_options={
            "visibility_timeout": VISIBILITY_SECONDS,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
        },
    )


@app.task(name="job")
def job(n: int, key: str) -> Done:
    """One job."""
    return common.compute(n, key)


@worker_ready.connect
def _ready(**_: Any) -> None:
    common.worker_ready()


class Driver(common.Driver):
    """Sends tasks and waits for their results."""

    def versions(self) -> dict[str, str]:
        return {"celery": version("celery"), "kombu": version("kombu"), "redis (client)": version("redis")}

    def in_turn(self, n: int, count: int) -> list[Done]:
        return [job.delay(n, "").get() for _ in range(count)]

    def at_once(self, n: int, count: int) -> list[Done]:
        # Not a group: its result is polled every half second.
        results = [job.delay(n, "") for _ in range(count)]
        return [result.get() for result in results]

    def begin(self, n: int, key: str) -> Any:
        return job.delay(n, key)

    def finish(self, begun: Any) -> Done:
        return begun.get()


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        name = f"worker-{OPTIONS['worker']}@%h"
        app.worker_main(["worker", "--concurrency=1", "--loglevel=WARNING", f"--hostname={name}"])
    else:
        common.serve(Driver())
