"""A plain DBOS application. It takes commands from its standard input (`stdin_commands`)."""

import os
import time

from dbos import DBOS, DBOSConfig, SetWorkflowID
from stdin_commands import commands, log_step

config: DBOSConfig = {"name": "orders", "system_database_url": os.environ["DATABASE_URL"]}
DBOS(config=config)


def log(step: str) -> None:
    log_step(DBOS.workflow_id, step)


@DBOS.step()
def first() -> int:
    log("first")
    return 1


@DBOS.step()
def slow() -> int:
    log("slow")
    time.sleep(1)
    return 2


@DBOS.step()
def last(payment: str) -> str:
    log("last")
    return payment


@DBOS.workflow()
def pack() -> int:
    return first() + slow()


@DBOS.workflow()
def order() -> str:
    packed = first() + slow()
    packed += DBOS.enqueue_workflow("packing", pack).get_result()
    DBOS.set_event("packed", packed)
    log("waits")
    return last(DBOS.recv("payment", timeout_seconds=600))


@DBOS.step()
def brief() -> None:
    time.sleep(0.3)


@DBOS.workflow()
def limited() -> None:
    brief()


if __name__ == "__main__":
    DBOS.launch()
    DBOS.register_queue("packing")
    DBOS.register_queue("concurrent", concurrency=3, worker_concurrency=2)
    DBOS.register_queue("rated", limiter={"limit": 2, "period": 1.5})
    for command, workflow_id in commands():
        if command == "enqueue":
            with SetWorkflowID(workflow_id):
                DBOS.enqueue_workflow(workflow_id.partition("-")[0], limited)
        elif command == "start":
            with SetWorkflowID(workflow_id):
                DBOS.start_workflow(order)
        else:
            DBOS.send(workflow_id, "paid", "payment")
