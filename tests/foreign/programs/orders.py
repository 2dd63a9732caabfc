"""A plain DBOS application. Its standard input has one order a line: ``start ID`` or ``signal ID``."""

import os
import sys
import time
from pathlib import Path

from dbos import DBOS, DBOSConfig, SetWorkflowID

config: DBOSConfig = {"name": "orders", "system_database_url": os.environ["DATABASE_URL"]}
DBOS(config=config)


def log(word: str) -> None:
    with Path(os.environ["STEP_LOG"]).open("a") as file:
        file.write(f"{DBOS.workflow_id} {word} {os.getpid()}\n")


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


if __name__ == "__main__":
    DBOS.launch()
    DBOS.register_queue("packing")
    print("ready", flush=True)
    for line in sys.stdin:
        what, workflow_id = line.split()
        if what == "start":
            with SetWorkflowID(workflow_id):
                DBOS.start_workflow(order)
        else:
            DBOS.send(workflow_id, "paid", "payment")
