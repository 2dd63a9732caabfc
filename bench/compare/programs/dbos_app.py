"""Raw DBOS: a queue, workers, and the client that its documentation shows for other processes.

As documented: the queue and its handles as they come. Tuned: two workflows a worker, and both the queue
and the results polled every 20 ms.
"""

from __future__ import annotations

import signal
import sys
import time
from importlib.metadata import version
from typing import Any

from dbos import DBOS, DBOSClient

from bench.compare.programs import common
from bench.compare.programs.common import OPTIONS, TUNED, Done

QUEUE = "jobs"
POLL_SECONDS = 0.02
UNFINISHED = ["ENQUEUED", "PENDING", "DELAYED"]


@DBOS.step()
def compute(n: int, key: str) -> Done:
    """The job's body."""
    return common.compute(n, key)


@DBOS.workflow()
def job(n: int, key: str) -> Done:
    """One job: a workflow of one step."""
    return compute(n, key)


@DBOS.workflow()
def turn(n: int, count: int) -> list[Done]:
    """Jobs in turn: a workflow with that many steps."""
    return [compute(n, "") for _ in range(count)]


def work() -> None:
    """One worker until SIGTERM."""
    DBOS(
        config={
            "name": "bench",
            "system_database_url": OPTIONS["url"],
            "application_version": "1",
            # Documented for several processes: each needs an id of its own.
            "executor_id": f"worker-{OPTIONS['worker']}",
            "log_level": "WARNING",
        }
    )
    DBOS.launch()
    if TUNED:
        DBOS.register_queue(QUEUE, worker_concurrency=2, polling_interval_sec=POLL_SECONDS)
    else:
        DBOS.register_queue(QUEUE)
    common.worker_ready()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


class Driver(common.Driver):
    """A ``DBOSClient``."""

    def __init__(self) -> None:
        self.client = DBOSClient(system_database_url=OPTIONS["url"], application_name="bench")
        self.waiting: dict[str, float] = {"polling_interval_sec": POLL_SECONDS} if TUNED else {}

    def versions(self) -> dict[str, str]:
        return {"dbos": version("dbos")}

    def _enqueue(self, name: str, *args: Any) -> Any:
        return self.client.enqueue({"queue_name": QUEUE, "workflow_name": name}, *args)

    def in_turn(self, n: int, count: int) -> list[Done]:
        return self._enqueue("turn", n, count).get_result(**self.waiting)

    def at_once(self, n: int, count: int) -> list[Done]:
        handles = [self._enqueue("job", n, "") for _ in range(count)]
        if not TUNED:
            return [handle.get_result() for handle in handles]
        # One poll for any unfinished one, then all results in one query: cheaper than a poll per handle.
        ids = [handle.get_workflow_id() for handle in handles]
        while self.client.list_workflows(
            workflow_ids=ids, status=UNFINISHED, limit=1, load_input=False, load_output=False
        ):
            time.sleep(POLL_SECONDS)
        ended = self.client.list_workflows(workflow_ids=ids, load_input=False, load_output=True)
        return [status.output for status in ended]

    def begin(self, n: int, key: str) -> Any:
        return self._enqueue("job", n, key)

    def finish(self, begun: Any) -> Done:
        return begun.get_result(**self.waiting)


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        # Before any thread begins: all of them have to leave the signals to sigwait.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        work()
    else:
        common.serve(Driver())
