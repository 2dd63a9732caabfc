"""Waits of every kind and style, started together before a fault and checked after it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from dbos import DBOSClient, DBOSPortableJSONSerializer

from holdfast.dbos_adapter.schema import sqlalchemy_url
from holdfast.statuses import ENDED
from tests.support import waiting_workflows as waiting
from tests.support.native_stack import NativeStack
from tests.support.stack import wait_for

KINDS = ("sleep", "recv", "event", "child", "queue")
STYLES = ("sync", "async", "typed")
WANTED = {
    "sleep": "slept {id}",
    "recv": "got go",
    "event": "saw told",
    "child": "child got go",
    "queue": "queued quick",
}
LATE_SECONDS = 3.0


@dataclass
class Cell:
    """One wait under one fault."""

    fault: str
    kind: str
    style: str
    wrong: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        return f"{self.fault}-{self.kind}-{self.style}"


@dataclass
class Round:
    """The waits of one fault."""

    stack: NativeStack
    client: DBOSClient
    fault: str
    sleep_seconds: float
    cells: list[Cell] = field(default_factory=list)
    begun: float = 0.0

    @property
    def teller(self) -> str:
        return f"{self.fault}-teller"

    @property
    def blockers(self) -> list[str]:
        return [f"{self.fault}-full-{number}" for number in range(self.stack.worker_count)]

    def begin(self) -> None:
        """Starts all waits and returns once all of them wait."""
        for each in self.blockers:
            self.enqueue("waiting.sync.recv", waiting.FULL, each, each, 0.0)
        running = "SELECT 1 AS n FROM dbos.workflow_status WHERE status = 'PENDING' AND workflow_uuid IN ({})"
        wait_for(
            lambda: len(self.rows(running, self.blockers)) == len(self.blockers), 15, "the queue is full"
        )
        self.begun = time.time()
        for style in STYLES:
            for kind in KINDS:
                cell = Cell(self.fault, kind, style)
                self.cells.append(cell)
                queue = waiting.PARENTS if kind in ("child", "queue") else waiting.LEAVES
                subject = self.teller if kind == "event" else cell.id
                self.enqueue(f"waiting.{style}.{kind}", queue, cell.id, subject, self.sleep_seconds)
        self.all_wait()

    def all_wait(self) -> None:
        """Returns once the running process of each workflow reports that it waits."""
        told = "SELECT w.workflow_id FROM ops.waits w JOIN dbos.workflow_status s ON s.workflow_uuid"
        told += " = w.workflow_id AND s.owner_xid = w.owner_xid WHERE w.workflow_id IN ({})"
        wait_for(lambda: len(self.rows(told, self.ids)) == len(self.cells), 15, "all of them wait")

    def release(self) -> None:
        """Releases the waits."""
        for each in self.blockers:
            self.client.send(each, "go", "topic")
        for cell in self.cells:
            if cell.kind == "recv":
                self.client.send(cell.id, "go", "topic")
        children = [row["id"] for row in self.children() if row["name"] != "waiting.quick"]
        for child in children:
            self.client.send(child, "go", "topic")
        self.enqueue("waiting.teller", waiting.LEAVES, self.teller, "told")

    def cancel(self) -> None:
        """Cancels all unfinished workflows of the fault, including children."""
        left = self.stack.query(
            "SELECT workflow_uuid AS id FROM dbos.workflow_status"
            f" WHERE '{self.fault}-' IN (left(workflow_uuid, {len(self.fault) + 1}),"
            f" left(parent_workflow_id, {len(self.fault) + 1})) AND status IN ('ENQUEUED', 'PENDING')"
        )
        if left:
            self.client.cancel_workflows([row["id"] for row in left])

    def children(self) -> list[dict[str, Any]]:
        """Returns the children that the child cells started."""
        parents = [cell.id for cell in self.cells if cell.kind == "child"]
        return self.rows(
            "SELECT workflow_uuid AS id, name FROM dbos.workflow_status WHERE parent_workflow_id IN ({})",
            parents,
        )

    @property
    def ids(self) -> list[str]:
        return [cell.id for cell in self.cells]

    def enqueue(self, name: str, queue: str, workflow_id: str, *args: Any) -> None:
        self.client.enqueue({"queue_name": queue, "workflow_name": name, "workflow_id": workflow_id}, *args)

    def rows(self, statement: str, ids: list[str]) -> list[dict[str, Any]]:
        return self.stack.query(statement.format(", ".join(f"'{each}'" for each in ids)))

    # --- checks ------------------------------------------------------------------------------

    def check_ends(self, seconds: float) -> None:
        """All end within ``seconds``, each with its own result. A sleep ends when it is due."""
        statement = (
            "SELECT s.workflow_uuid AS id, s.status, o.output, o.error, s.completed_at - s.created_at AS took"
            " FROM dbos.workflow_status s LEFT JOIN dbos.workflow_output o USING (workflow_uuid)"
            " WHERE s.workflow_uuid IN ({})"
        )
        deadline = time.monotonic() + seconds
        while True:
            found = {row["id"]: row for row in self.rows(statement, self.ids)}
            if all(row["status"] in ENDED for row in found.values()):
                break
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)
        for cell in self.cells:
            row = found[cell.id]
            wanted = WANTED[cell.kind].format(id=cell.id)
            if row["status"] != "SUCCESS":
                cell.wrong.append(f"{row['status']} {row['error'] or ''}".strip()[:120])
            elif json.loads(row["output"]) != wanted:
                cell.wrong.append(f"result {row['output'][:80]}")
            late = (row["took"] or 0) / 1000 - self.sleep_seconds
            if cell.kind == "sleep" and row["took"] and not -0.1 <= late <= LATE_SECONDS:
                cell.wrong.append(f"woke {late:+.1f} s after it was due")

    def check_blame(self) -> None:
        """No workflow that only waited was counted as crashed or suspected."""
        by_id = {cell.id: cell for cell in self.cells}
        parents = {row["id"]: row["parent"] for row in self.rows(
            "SELECT workflow_uuid AS id, parent_workflow_id AS parent FROM dbos.workflow_status"
            " WHERE parent_workflow_id IN ({})", self.ids,
        )}  # fmt: skip
        everyone = [*by_id, *parents]
        for row in self.rows(
            "SELECT workflow_id AS id, crashes FROM ops.crashes WHERE crashes > 0 AND workflow_id IN ({})",
            everyone,
        ):
            by_id[parents.get(row["id"], row["id"])].wrong.append(f"{row['crashes']} crashes counted")
        for row in self.rows(
            "SELECT workflow_uuid AS id, queue_name FROM dbos.workflow_status WHERE workflow_uuid IN ({})"
            " AND queue_name NOT LIKE 'waiting-%'",
            everyone,
        ):
            by_id[parents.get(row["id"], row["id"])].wrong.append(f"moved to {row['queue_name']}")

    def check_messages(self) -> None:
        """Each message was consumed exactly once."""
        receivers = {cell.id: cell for cell in self.cells if cell.kind == "recv"}
        for row in self.rows(
            "SELECT destination_uuid AS id, count(*) AS sent, count(*) FILTER (WHERE consumed) AS consumed"
            " FROM dbos.notifications WHERE destination_uuid IN ({}) GROUP BY 1",
            list(receivers),
        ):
            if (row["sent"], row["consumed"]) != (1, 1):
                receivers[row["id"]].wrong.append(f"{row['consumed']} of {row['sent']} messages consumed")

    def settle(self) -> list[str]:
        """Releases the waits and returns the violations."""
        self.release()
        self.check_ends(max(0.0, self.begun + self.sleep_seconds - time.time()) + 15)
        self.check_blame()
        self.check_messages()
        return self.wrong

    @property
    def wrong(self) -> list[str]:
        return [f"{cell.id}: {why}" for cell in self.cells for why in cell.wrong]


@contextmanager
def client_of(stack: NativeStack) -> Iterator[DBOSClient]:
    """Yields DBOS's client with all rights on that stack's tables."""
    state = stack.state
    server = f"127.0.0.1:{state['postgres']['port']}"
    url = f"postgresql://holdfast_migrator@{server}/holdfast?passfile={state['passfiles']['migrate']}"
    made = DBOSClient(
        system_database_url=sqlalchemy_url(url),
        application_name="holdfast-worker",
        serializer=DBOSPortableJSONSerializer(),
    )
    try:
        yield made
    finally:
        made.destroy()
