"""Holdfast's worker with one workflow more: ``python -m bench.compare.bench_worker``."""

from __future__ import annotations

import logging

from dbos import DBOS

from holdfast.durable import names
from holdfast.process.serve import serve
from holdfast.process.worker_app import create_app
from holdfast.settings import Settings
from services.composition import Worker

CONCURRENCY = 50
"""Of one worker: a hundred with two."""

log = logging.getLogger("holdfast.bench")


class BenchWorker(Worker):
    """The worker's application; lease, sweep, listener and schedule are all there."""

    def prepare(self, settings: Settings) -> None:
        """Also imports the benchmark's workflow."""
        from bench.compare import stepless

        # A worker takes work from the queues that its code knows.
        names.QUEUE_OF[stepless.NAME] = stepless.QUEUE
        names.ROLE_OF[stepless.NAME] = "worker"
        super().prepare(settings)
        log.debug("loaded %s", stepless.NAME)

    def register(self, settings: Settings) -> None:
        """Also registers its queue, with polling as Holdfast's own have it."""
        super().register(settings)
        from bench.compare import stepless

        DBOS.register_queue(
            stepless.QUEUE,
            worker_concurrency=CONCURRENCY,
            polling_interval_sec=1.0,
            on_conflict="update_if_latest_version",
        )


if __name__ == "__main__":
    serve(BenchWorker(), create_app)
