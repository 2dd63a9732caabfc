"""An application that enqueues work with each option. It does not know Holdfast.

Orders arrive on its standard input, one JSON array a line: workflow, id, queue, options, seconds of timeout.
"""

import json
import sys
from typing import Any

import plain
from dbos import DBOS, SetEnqueueOptions, SetWorkflowID, SetWorkflowTimeout
from dbos import error as dbos_error


def enqueue(name: str, workflow_id: str, queue: str, options: dict[str, Any], timeout: float | None) -> str:
    with SetWorkflowID(workflow_id), SetEnqueueOptions(**options), SetWorkflowTimeout(timeout):
        try:
            DBOS.enqueue_workflow(queue, plain.WORKFLOWS[name], "payment")
        except dbos_error.DBOSQueueDeduplicatedError:
            return "refused"
    return "accepted"


def main() -> None:
    DBOS.launch()
    DBOS.register_queue("letters")
    DBOS.register_queue("partitioned", partition_concurrency=1)
    print("ready", flush=True)
    for line in sys.stdin:
        match json.loads(line):
            case ["send", workflow_id, [text]]:
                DBOS.send(workflow_id, text, "payment")
            case [name, workflow_id, [queue, options, timeout]]:
                plain.note(workflow_id, enqueue(name, workflow_id, queue, options, timeout))


if __name__ == "__main__":
    main()
