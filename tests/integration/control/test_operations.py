"""Control operations: interrupted anywhere and repeated they end alike; of several on one target one wins."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from dbos import DBOSClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.control import worker as worker_module
from holdfast.control.kinds import kinds_of, target_of
from holdfast.control.operations import Operation, Requested, begin, operation
from holdfast.control.worker import Worker, batches, run
from holdfast.errors import Conflict, UnknownWorkflow
from holdfast.postgres.database import Connection, Row
from holdfast.recovery.adoption import move
from holdfast.statuses import RESUMABLE, UNFINISHED
from tests.support import names
from tests.support.api_server import Api, serving
from tests.support.database import Database, Server, wait_until
from tests.support.executors import Peer, insert, workflow

OVER = {"SUCCESS", "ERROR", "CANCELLED"}
_numbers = itertools.count()


class _Dies(BaseException):
    """Stands for the end of the process in the middle of a transaction."""


class _Dying:
    """A kind whose process ends after it acted and before the batch is counted."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self.dies = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kind, name)

    def act(self, connection: Connection, operation: Operation, ids: list[str]) -> int:
        done: int = self._kind.act(connection, operation, ids)
        if self.dies:
            connection.close()
            raise _Dies
        return done


@pytest.fixture(scope="module")
def shared(server: Server) -> Iterator[Database]:
    with Database.lent(server) as made:
        yield made


@pytest.fixture
def api(database: Database) -> Iterator[Api]:
    with serving(database.settings("api")) as made:
        yield made


Family = list[tuple[int | None, str, int]]
STATUSES = [
    "ENQUEUED",
    "PENDING",
    "DELAYED",
    "SUCCESS",
    "ERROR",
    "CANCELLED",
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED",
]


@st.composite
def families(draw: st.DrawFn) -> Family:
    """Workflows as (index of the parent, status, version); the first one is the root."""
    size = draw(st.integers(1, 9))
    return [
        (
            None if index == 0 else draw(st.sampled_from([None, *range(index)])),
            draw(st.sampled_from(STATUSES)),
            draw(st.integers(0, 1)),
        )
        for index in range(size)
    ]


def store(database: Database, family: Family) -> str:
    """Stores the family under a prefix of its own and returns the prefix."""
    prefix = f"f{next(_numbers)}-"
    for index, (parent, status, version) in enumerate(family):
        insert(
            database,
            [f"{prefix}{index}"],
            status=status,
            parent_workflow_id=None if parent is None else f"{prefix}{parent}",
            application_version=f"worker-{prefix}{version}",
            updated_at=1,
            executor_id="gone" if status == "PENDING" else None,
        )
    return prefix


def below(family: Family, through: set[str] | None = None) -> set[int]:
    """The root and what is below it, through workflows of these statuses only."""
    found = {0}
    for index, (parent, status, _) in enumerate(family):
        if parent in found and (through is None or status in through):
            found.add(index)
    return found


def expected(family: Family, kind: str) -> tuple[list[tuple[str, int]], int]:
    """Status and version of each workflow at the end, and how many the operation acted on."""
    rows = [(status, version) for _, status, version in family]
    if kind == "delete":
        gone = below(family)
        if any(rows[index][0] in UNFINISHED for index in gone):
            return rows, 0
        return [row for index, row in enumerate(rows) if index not in gone], len(gone)
    if kind == "cancel":
        chosen = {index for index in below(family) if family[index][1] not in OVER}
        ends = {index: ("CANCELLED", family[index][2]) for index in chosen}
    elif kind == "resume":
        chosen = below(family, {"CANCELLED"})
        ends = {index: ("ENQUEUED", family[index][2]) for index in chosen}
    else:
        chosen = {
            i for i, (_, status, version) in enumerate(family) if status in STATUSES[:2] and not version
        }
        ends = dict.fromkeys(chosen, ("ENQUEUED", 1))
    return [ends.get(index, row) for index, row in enumerate(rows)], len(chosen)


def stored(database: Database, prefix: str) -> list[tuple[str, int]]:
    rows = database.rows(
        "SELECT status, application_version FROM dbos.workflow_status WHERE workflow_uuid LIKE %(prefix)s"
        " ORDER BY workflow_uuid",
        prefix=f"{prefix}%",
    )
    return [(row["status"], int(row["application_version"][-1])) for row in rows]


def requested(kind: str, prefix: str) -> Requested:
    if kind == "adopt":
        versions = {"from_version": f"worker-{prefix}0", "to_version": f"worker-{prefix}1"}
        return Requested(kind, prefix, {"application": "holdfast-worker", **versions}, "test")
    return of_workflow(kind, f"{prefix}0")


def of_workflow(kind: str, workflow_id: str) -> Requested:
    options = {"children": True} if kind == "delete" else {}
    return Requested(kind, target_of(workflow_id), {"workflow_id": workflow_id, **options}, "test")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # fmt: skip
@given(
    family=families(),
    kind=st.sampled_from(["cancel", "resume", "adopt", "delete"]),
    batch=st.integers(1, 4),
    interruptions=st.lists(st.sampled_from(["", "ends", "dies", "repeated", "locked"]), max_size=12),
)
def test_an_operation_interrupted_anywhere_ends_as_if_it_was_not(
    shared: Database, family: Family, kind: str, batch: int, interruptions: list[str]
) -> None:
    prefix = store(shared, family)
    order = requested(kind, prefix)
    dying = {name: _Dying(each) for name, each in kinds_of(shared.settings("api")).items()}
    connection = shared.connect(role="api")
    status = family[0][1]
    refused = {"cancel": ("SUCCESS", "ERROR"), "resume": {*STATUSES} - {*RESUMABLE}, "delete": UNFINISHED}
    if status in refused.get(kind, ()):
        with pytest.raises(Conflict, match=status):
            begin(connection, dying, order)
        assert stored(shared, prefix) == [(status, version) for _, status, version in family]
        connection.close()
        return
    ends, count = expected(family, kind)
    operation_id = begin(connection, dying, order)
    worker = Worker(dying, batch=batch)
    row: Row | None = None
    for what in itertools.chain(interruptions, itertools.repeat("")):
        if what == "ends":
            worker = Worker(dying, batch=batch)
        elif what == "repeated":
            with pytest.raises(Conflict, match=operation_id):
                begin(connection, dying, order)
        dying[kind].dies = what == "dies"
        holder = shared.server.admin(shared.name) if what == "locked" else None
        if holder is not None:
            victim = f"SELECT FROM dbos.workflow_status WHERE workflow_uuid = '{prefix}{len(family) - 1}'"
            holder.cursor().execute(f"BEGIN; {victim} FOR UPDATE")
        try:
            row = worker.advance(connection, operation_id)
        except _Dies:
            connection = shared.connect(role="api")
            worker = Worker(dying, batch=batch)
        finally:
            if holder is not None:
                holder.close()
        if row is not None and row["ended_at"] is not None:
            break
    assert row is not None
    is_refused = kind == "delete" and not count
    last = "ERROR" if is_refused else "SUCCESS"
    assert (row["status"], row["completed"], stored(shared, prefix)) == (last, count, ends)
    # Repeated, it does no more.
    if kind == "delete":
        with pytest.raises(Conflict if is_refused else UnknownWorkflow):
            run(lambda: nullcontext(connection), dying, order, seconds=60)
    elif kind == "resume":
        with pytest.raises(Conflict, match="ENQUEUED"):
            begin(connection, dying, order)
    else:
        assert run(lambda: nullcontext(connection), dying, order, seconds=60)["completed"] == 0
    assert stored(shared, prefix) == ends
    connection.close()


@pytest.mark.parametrize(
    ("kind", "code", "status"),
    [("cancel", 200, "ENQUEUED"), ("resume", 202, "CANCELLED"), ("delete", 200, "SUCCESS")],
)
def test_of_many_at_the_same_time_one_is_accepted(
    api: Api, database: Database, kind: str, code: int, status: str
) -> None:
    insert(database, ["w"], status=status)
    insert(database, [f"w-{n}" for n in range(5)], status=status, parent_workflow_id="w")
    barrier = threading.Barrier(12)

    def send() -> int:
        barrier.wait()
        if kind == "delete":
            return api.http.delete("/workflows/w?children=true").status_code
        return api.http.post(f"/workflows/w/{kind}").status_code

    with ThreadPoolExecutor(12) as threads:
        answers = sorted(future.result() for future in [threads.submit(send) for _ in range(12)])
    if kind == "delete":  # what comes later does not find it any more
        answers = [409 if answer == 404 else answer for answer in answers]
    assert answers == sorted([code, *[409] * 11])
    ended = {"cancel": ["CANCELLED"], "resume": ["ENQUEUED"], "delete": []}[kind]
    statuses = database.rows("SELECT DISTINCT status FROM dbos.workflow_status")
    assert [row["status"] for row in statuses] == ended


def test_a_cancel_goes_on_where_a_row_is_locked_and_repeating_finishes_another_ones(
    api: Api, database: Database
) -> None:
    insert(database, ["p"])
    insert(database, ["a", "b", "c"], parent_workflow_id="p")
    holder = database.admin()
    holder.cursor().execute("BEGIN; SELECT FROM dbos.workflow_status WHERE workflow_uuid = 'b' FOR UPDATE")
    answer = api.http.post("/workflows/p/cancel")
    assert answer.status_code == 202
    body = answer.json()
    assert (body["status"], body["completed"], body["total"]) == ("RUNNING", 3, 4)
    assert "other work holds" in body["note"]
    again = api.http.post("/workflows/p/cancel")
    assert again.status_code == 409 and body["operation_id"] in again.json()["detail"]
    holder.cursor().execute("ROLLBACK")
    location = answer.headers["location"]
    wait_until(lambda: api.http.get(location).json()["status"] == "SUCCESS", "the thread finishes it")
    assert {workflow(database, each)["status"] for each in "pabc"} == {"CANCELLED"}
    assert api.http.post("/workflows/p/cancel").status_code == 409
    # A cancel of an older release that was interrupted, or a child that was stored meanwhile.
    insert(database, ["late"], parent_workflow_id="p")
    assert api.http.post("/workflows/p/cancel").json() == {"workflow_id": "p", "status": "CANCELLED"}
    assert workflow(database, "late")["status"] == "CANCELLED"


def test_the_thread_finishes_what_another_process_left(database: Database) -> None:
    insert(database, ["p"])
    insert(database, ["a", "b"], parent_workflow_id="p")
    kinds = kinds_of(database.settings("api"))
    operation_id = begin(database.connect(role="api"), kinds, of_workflow("cancel", "p"))
    with serving(database.settings("api")) as api:
        path = f"/operations/{operation_id}"
        wait_until(lambda: api.http.get(path).json()["status"] == "SUCCESS", "the next process finishes it")
    assert {workflow(database, each)["status"] for each in "pab"} == {"CANCELLED"}


def test_a_resume_takes_cancelled_descendants_along_from_the_lowest_up(
    database: Database,
) -> None:
    rows = (
        ("root", None, "CANCELLED", names.NESTED_ROOT),
        ("child", "root", "CANCELLED", names.NESTED_CHILD),
        ("done", "root", "SUCCESS", names.NESTED_CHILD),
        ("grandchild", "child", "CANCELLED", names.NESTED_GRANDCHILD),
        ("other", None, "CANCELLED", names.NESTED_ROOT),
    )
    for workflow_id, parent, status, name in rows:
        insert(database, [workflow_id], parent_workflow_id=parent, status=status, name=name,
               application_name="holdfast-api", queue_name=None)  # fmt: skip
    connection = database.connect(role="api")
    resumed: list[str] = []
    kinds = kinds_of(database.settings("api"))
    begin(connection, kinds, of_workflow("resume", "root"))
    worker = Worker(kinds, batch=1)
    while (row := worker.advance(connection)) is not None and row["ended_at"] is None:
        queued = database.rows(
            "SELECT workflow_uuid AS id FROM dbos.workflow_status WHERE status = 'ENQUEUED'"
        )
        resumed += [each["id"] for each in queued if each["id"] not in resumed]
    assert resumed == ["grandchild", "child", "root"]
    assert workflow(database, "root")["queue_name"] == names.NESTED_ROOT_QUEUE
    assert workflow(database, "grandchild")["queue_name"] == names.NESTED_GRANDCHILD_QUEUE


def test_nothing_is_resumed_if_this_release_does_not_know_all_of_it(api: Api, database: Database) -> None:
    insert(database, ["root"], status="CANCELLED")
    insert(database, ["child"], status="CANCELLED", parent_workflow_id="root", name="gone.workflow")
    for workflow_id in ("root", "child"):
        answer = api.http.post(f"/workflows/{workflow_id}/resume")
        assert answer.status_code == 409 and "gone.workflow" in answer.json()["detail"]
    assert workflow(database, "root")["status"] == workflow(database, "child")["status"] == "CANCELLED"


def test_what_was_cancelled_after_a_resume_began_stays_cancelled(database: Database) -> None:
    insert(database, ["p"], status="CANCELLED", updated_at=1)
    insert(database, ["a", "b"], status="CANCELLED", parent_workflow_id="p", updated_at=1)
    kinds, connection = kinds_of(database.settings("api")), database.connect(role="api")
    operation_id = begin(connection, kinds, of_workflow("resume", "p"))
    assert (Worker(kinds, batch=1).advance(connection) or {})["completed"] == 1
    (first,) = database.rows("SELECT workflow_uuid AS id FROM dbos.workflow_status WHERE status = 'ENQUEUED'")
    later = "UPDATE dbos.workflow_status SET status = 'CANCELLED', updated_at = 9999999999999"
    database.rows(f"{later} WHERE workflow_uuid = '{first['id']}'")
    worker = Worker(kinds)
    while (operation(connection, operation_id) or {})["ended_at"] is None:
        worker.advance(connection)
    assert workflow(database, first["id"])["status"] == "CANCELLED"
    assert workflow(database, "p")["status"] == "ENQUEUED"


@pytest.mark.parametrize("kind", ["resume", "delete"])
def test_a_long_chain_of_parents_takes_few_scans(database: Database, kind: str) -> None:
    database.rows(
        "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, application_name, queue_name,"
        " parent_workflow_id, created_at, updated_at) SELECT 'c' || i, 'CANCELLED', 'fibonacci.number',"
        " 'holdfast-worker', 'fibonacci', 'c' || i - 1, 1, 1 FROM generate_series(1, 5000) i;"
        " ANALYZE dbos.workflow_status"
    )
    connection, kinds, scans = database.connect(role="api"), kinds_of(database.settings("api")), []
    scan = kinds[kind].scan

    def counted(connection: Connection, operation: Operation, limit: int) -> list[str]:
        scans.append(operation)
        return scan(connection, operation, limit)

    kinds[kind].scan = counted  # type: ignore[method-assign]
    operation_id = begin(connection, kinds, of_workflow(kind, "c1"))
    *_, last = batches(lambda: nullcontext(connection), Worker(kinds), operation_id)
    assert (last["status"], last["completed"], len(scans)) == ("SUCCESS", 5000, 2)


def test_an_operation_of_a_kind_that_a_release_does_not_know_is_left_to_others(database: Database) -> None:
    insert(database, ["p"])
    connection, kinds = database.connect(role="api"), kinds_of(database.settings("api"))
    operation_id = begin(connection, kinds, of_workflow("cancel", "p"))
    older = Worker({name: kind for name, kind in kinds.items() if name != "cancel"})
    assert older.advance(connection) is older.advance(connection, operation_id) is None
    assert (operation(connection, operation_id) or {})["status"] == "RUNNING"


def test_a_worker_keeps_no_list_of_what_another_one_ended(database: Database) -> None:
    insert(database, ["p"])
    insert(database, ["a", "b", "c"], parent_workflow_id="p")
    kinds, connection = kinds_of(database.settings("api")), database.connect(role="api")
    operation_id = begin(connection, kinds, of_workflow("cancel", "p"))
    worker = Worker(kinds, batch=1)
    worker.advance(connection, operation_id)
    assert any(each.ids for each in worker._progress.values())
    *_, last = batches(lambda: nullcontext(connection), Worker(kinds), operation_id)
    assert last["status"] == "SUCCESS"
    assert worker.advance(connection) is None
    assert not any(each.ids for each in worker._progress.values())


def test_a_worker_pauses_while_another_one_has_the_operation(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert(database, ["p"])
    kinds, connection = kinds_of(database.settings("api")), database.connect(role="api")
    operation_id = begin(connection, kinds, of_workflow("cancel", "p"))
    other = database.admin()
    pauses = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        other.cursor().execute("ROLLBACK")

    monkeypatch.setattr(worker_module, "time", SimpleNamespace(sleep=pause, monotonic=time.monotonic))
    other.cursor().execute("BEGIN; SELECT FROM ops.operations FOR UPDATE")
    rows = batches(lambda: nullcontext(connection), Worker(kinds), operation_id)
    first, *_, last = itertools.islice(rows, 50)
    assert (first["ended_at"], last["status"], len(pauses)) == (None, "SUCCESS", 1)


def test_a_batch_that_takes_too_long_is_made_smaller_and_what_is_refused_ends_it(database: Database) -> None:
    """Above two workflows the statement takes longer than its limit allows."""

    class Slow:
        left = ["a", "b", "c", "d", "e"]
        sizes: list[int] = []

        def begin(self, *_: Any) -> int:
            return 0

        def scan(self, *_: Any) -> list[str]:
            return list(self.left)

        def act(self, connection: Connection, _: Operation, ids: list[str]) -> int:
            self.sizes.append(len(ids))
            statement = "SELECT no_such_thing" if ids == ["e"] else "SELECT"
            connection.cursor().execute("SELECT pg_sleep(60)" if len(ids) > 2 else statement)
            self.left = self.left[len(ids) :]
            return len(ids)

        def waits_for(self, *_: Any) -> str:
            return "nothing"

    slow = Slow()
    connection = database.connect(role="api")
    connection.cursor().execute("SET statement_timeout = '150ms'")
    operation_id = begin(connection, {"slow": slow}, Requested("slow", "t", {}, "test"))
    worker = Worker({"slow": slow}, batch=8)
    row = worker.advance(connection, operation_id)
    assert row is not None and "took longer than its limit" in row["note"]
    assert worker.advance(connection) is None, "it makes a pause"
    while (row := worker.advance(connection, operation_id)) is not None and row["ended_at"] is None:
        pass
    assert slow.sizes == [5, 2, 2, 1]
    assert row is not None and (row["status"], row["completed"]) == ("ERROR", 4)
    assert "no_such_thing" in row["note"]


def test_stranded_work_of_many_executors_moves_in_batches(api: Api, database: Database) -> None:
    Peer.start(database, "worker-now")
    database.rows(
        "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, queue_name, application_name,"
        " application_version, executor_id, created_at, updated_at)"
        " SELECT 's' || i, CASE i % 2 WHEN 0 THEN 'ENQUEUED' ELSE 'PENDING' END, 'fibonacci.number',"
        " 'fibonacci', 'holdfast-worker', 'worker-0', 'gone-' || i % 3, 1, 1 FROM generate_series(1, 1200) i"
    )
    body = {"application": "holdfast-worker", "from_version": "worker-0"}
    answer = api.http.post("/stranded/adopt", json=body)
    assert answer.status_code == 202
    if "operation_id" in answer.json():
        location = answer.headers["location"]
        wait_until(lambda: api.http.get(location).json()["status"] == "SUCCESS", "all are adopted")
    moved = "SELECT count(*) FROM dbos.workflow_status WHERE application_version = 'worker-1'"
    assert database.one(moved) == database.one("SELECT count(*) FROM ops.handovers") == 1200
    [row] = database.rows("SELECT kind, completed, status, requested_by, arguments FROM ops.operations")
    assert (row["kind"], row["completed"], row["status"]) == ("adopt", 1200, "SUCCESS")
    assert row["requested_by"] == "api, 127.0.0.1" and row["arguments"]["from_version"] == "worker-0"


def test_an_operation_after_an_outage_gets_a_new_connection(api: Api, database: Database) -> None:
    insert(database, ["p", "q"])
    assert api.http.post("/workflows/p/cancel").status_code == 200
    database.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'holdfast_api'"
        " AND datname = current_database()"
    )
    wait_until(lambda: api.http.get("/stranded").status_code == 200, "PostgreSQL is there again")
    assert api.http.post("/workflows/q/cancel").status_code == 200


def test_a_circle_of_parents_ends(api: Api, database: Database) -> None:
    insert(database, ["a"], parent_workflow_id="b")
    insert(database, ["b"], parent_workflow_id="a")
    for kind, status in (("cancel", "CANCELLED"), ("resume", "ENQUEUED")):
        assert api.http.post(f"/workflows/a/{kind}").json() == {"workflow_id": "a", "status": status}
        assert workflow(database, "b")["status"] == status


def test_a_cancel_of_a_workflow_whose_id_is_too_long_for_a_notice(database: Database) -> None:
    peer, long = Peer.start(database), "x" * 9000
    peer.runs(long)
    connection, kinds = database.connect(role="api"), kinds_of(database.settings("api"))
    begin(connection, kinds, of_workflow("cancel", long))
    assert workflow(database, long)["status"] == "CANCELLED"
    assert database.one("SELECT executor_id FROM ops.revoked") == peer.id


def test_the_present_version_does_not_adopt_its_own_work(api: Api, database: Database) -> None:
    insert(database, ["w"])
    order = {"application": "holdfast-worker", "from_version": "worker-1"}
    for path, body in (("/stranded/adopt", order), ("/workflows/w/adopt", None)):
        answer = api.http.post(path, json=body)
        assert answer.status_code == 409 and "start a worker of it" in answer.json()["detail"]
    with database.connect(role="api") as connection:
        of_command = Requested("adopt", "version worker-1", {**order, "to_version": "worker-1"}, "cli")
        with pytest.raises(Conflict, match="its own already"):
            begin(connection, kinds_of(database.settings("api")), of_command)
        assert database.one("SELECT count(*) FROM ops.operations") == 0
        assert move(connection, "holdfast-worker", "worker-1", "worker-1", ["w"]) == []


def test_a_cancel_replaces_a_resume_that_waits(api: Api, database: Database) -> None:
    peer = Peer.start(database)
    peer.runs("w")
    assert api.http.post("/workflows/w/cancel").status_code == 200
    resume = api.http.post("/workflows/w/resume").json()
    assert peer.id in resume["note"]
    assert api.http.post("/workflows/w/cancel").json() == {"workflow_id": "w", "status": "CANCELLED"}
    replaced = api.http.get(f"/operations/{resume['operation_id']}").json()
    assert (replaced["status"], replaced["note"]) == ("ERROR", "A cancel replaced it.")
    database.rows("DELETE FROM ops.revoked")
    time.sleep(0.5)
    assert workflow(database, "w")["status"] == "CANCELLED"
    assert api.http.post("/workflows/w/cancel").status_code == 409


def test_a_cancel_that_cannot_begin_replaces_nothing(database: Database) -> None:
    insert(database, ["p"], status="CANCELLED", updated_at=1)
    kinds, connection = kinds_of(database.settings("api")), database.connect(role="api")
    operation_id = begin(connection, kinds, of_workflow("resume", "p"))
    database.rows("UPDATE dbos.workflow_status SET status = 'SUCCESS'")
    with pytest.raises(Conflict, match="SUCCESS"):
        begin(connection, kinds, of_workflow("cancel", "p"))
    assert (operation(connection, operation_id) or {})["status"] == "RUNNING"


def ids(database: Database) -> set[str]:
    return {row["id"] for row in database.rows("SELECT workflow_uuid AS id FROM dbos.workflow_status")}


@pytest.mark.parametrize("status", STATUSES)
def test_what_may_be_deleted(api: Api, database: Database, status: str) -> None:
    """What has ended; and a child when its parent reads its result no more."""
    for parent, child, below in (("p", "a", "SUCCESS"), ("q", "b", "ENQUEUED")):
        insert(database, [parent], status=status)
        insert(database, [child], status=below, parent_workflow_id=parent)
    forgotten = {"SUCCESS", "ERROR"}
    shown = api.http.get("/console/workflows/a/tree").json()["actions"]["delete"]
    answer = api.http.delete("/workflows/a")
    assert answer.status_code == (200 if status in forgotten else 409), answer.text
    assert (shown is None) is (answer.status_code == 200)
    if answer.status_code == 409:
        assert f"Its parent p is {status}" in answer.json()["detail"]
    # A child that is unfinished keeps what is above it, unless that goes alone.
    answer = api.http.delete("/workflows/q", params={"children": True})
    assert answer.status_code == 409 and "cancel it first" in answer.json()["detail"]
    assert ids(database) >= {"p", "q", "b"}
    answer = api.http.delete("/workflows/q")
    if status in UNFINISHED:
        assert answer.status_code == 409 and f"q is {status}" in answer.json()["detail"]
        return
    assert (answer.status_code, answer.json()) == (200, {"workflow_id": "q", "deleted": 1})
    answer = api.http.delete("/workflows/p", params={"children": True})
    assert answer.json() == {"workflow_id": "p", "deleted": 2 - (status in forgotten)}
    assert ids(database) == {"b"}
    assert [api.http.delete(f"/workflows/{each}").status_code for each in ("p", "never")] == [404, 404]


def test_a_delete_waits_for_the_cancelled_execution(api: Api, database: Database) -> None:
    peer = Peer.start(database)
    peer.runs("w")
    insert(database, ["child"], status="SUCCESS", parent_workflow_id="w")
    assert api.http.post("/workflows/w/cancel").status_code == 200
    answer = api.http.delete("/workflows/w?children=true")
    assert answer.status_code == 202 and peer.id in answer.json()["note"]
    assert ids(database) == {"w"}
    assert api.http.post("/workflows/w/resume").status_code == 409
    database.rows("DELETE FROM ops.revoked")
    wait_until(lambda: ids(database) == set(), "it goes when its code has ended")
    wait_until(lambda: api.http.get(answer.headers["location"]).json()["completed"] == 2, "both are counted")


def test_a_parent_that_another_transaction_reopens_keeps_its_child(database: Database) -> None:
    insert(database, ["p"], status="ERROR")
    insert(database, ["c"], status="SUCCESS", parent_workflow_id="p")
    kinds, connection = kinds_of(database.settings("api")), database.connect(role="api")
    operation_id = begin(connection, kinds, of_workflow("delete", "c"))
    other = database.admin()
    other.cursor().execute(
        "BEGIN; UPDATE dbos.workflow_status SET status = 'ENQUEUED' WHERE workflow_uuid = 'p'"
    )
    worker = Worker(kinds)
    row = worker.advance(connection, operation_id)
    assert row is not None and (row["completed"], row["ended_at"]) == (0, None)
    other.cursor().execute("COMMIT")
    row = worker.advance(connection, operation_id)
    assert row is not None and (row["status"], row["completed"]) == ("ERROR", 0)
    assert "Its parent p is ENQUEUED" in row["note"]


def test_nothing_of_a_family_goes_on_while_it_is_deleted(api: Api, database: Database) -> None:
    """A parent that went on would wait for a child that is deleted."""
    insert(database, ["root"], status="SUCCESS")
    insert(database, ["failed"], status="ERROR", parent_workflow_id="root")
    insert(database, ["stopped"], status="CANCELLED", parent_workflow_id="root", updated_at=1)
    for parent in ("failed", "stopped"):
        insert(database, [f"{parent}-leaf"], status="SUCCESS", parent_workflow_id=parent)
    with database.admin() as holder:
        holder.cursor().execute(
            "BEGIN; SELECT FROM dbos.workflow_status WHERE workflow_uuid LIKE '%-leaf' FOR UPDATE"
        )
        running = api.http.delete("/workflows/root?children=true").json()["operation_id"]
        for path in ("stopped/resume", "failed/reopen", "failed/fork"):
            answer = api.http.post(f"/workflows/{path}")
            assert answer.status_code == 409 and running in answer.json()["detail"], path
        assert api.http.delete("/workflows/stopped").status_code == 409
        holder.cursor().execute("ROLLBACK")
    wait_until(lambda: ids(database) == set(), "all of it is deleted")


def test_a_family_of_which_something_is_resumed_is_not_deleted(database: Database) -> None:
    insert(database, ["root", "stopped"], status="CANCELLED", updated_at=1)
    database.rows(
        "UPDATE dbos.workflow_status SET parent_workflow_id = 'root' WHERE workflow_uuid = 'stopped'"
    )
    kinds, connection = kinds_of(database.settings("api")), database.connect(role="api")
    resume = begin(connection, kinds, of_workflow("resume", "stopped"))
    with pytest.raises(Conflict, match=resume):
        begin(connection, kinds, of_workflow("delete", "root"))


def test_a_delete_waits_for_a_resume_that_just_begins(database: Database) -> None:
    insert(database, ["root"], status="CANCELLED", updated_at=1)
    insert(database, ["stopped"], status="CANCELLED", updated_at=1, parent_workflow_id="root")
    kinds, first, second = kinds_of(database.settings("api")), *(database.connect(role="api") for _ in "ab")
    resume, deletion = kinds["resume"].begin, []
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"

    def begin_between(connection: Connection, operation: Operation) -> int:
        done = resume(connection, operation)
        deletion.append(threads.submit(begin, second, kinds, of_workflow("delete", "root")))
        wait_until(lambda: deletion[0].done() or database.one(waiting) == 1, "the delete has come that far")
        return done

    kinds["resume"].begin = begin_between  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as threads:
        operation_id = begin(first, kinds, of_workflow("resume", "stopped"))
        with pytest.raises(Conflict, match=operation_id):
            deletion[0].result()


@pytest.mark.parametrize("is_read", [True, False])
def test_a_parent_does_not_go_on_to_wait_for_a_deleted_child(
    api: Api, database: Database, *, is_read: bool
) -> None:
    steps = [("child", "c", None), ("DBOS.getResult", "c", None) if is_read else ("s", None, None)]
    for parent, status in (("failed", "ERROR"), ("stopped", "CANCELLED")):
        insert(database, [parent], status=status, updated_at=1)
        started(database, parent, [*steps, ("fails", None, "e")])
    refused = {"failed/reopen": {}, "stopped/resume": {}, "failed/fork": {"start_step": 3}}
    for path, body in refused.items():
        answer = api.http.post(f"/workflows/{path}", json=body or None)
        assert answer.status_code == (202 if is_read else 409), answer.text
        assert is_read or "started c (step 1)" in answer.json()["detail"]
    assert api.http.post("/workflows/failed/fork", json={"start_step": 1}).status_code == 202


def started(database: Database, workflow_id: str, steps: list[tuple[str, str | None, str | None]]) -> None:
    """Records steps: name, child, error."""
    for number, (name, child, error) in enumerate(steps, 1):
        database.rows(
            "INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, function_name,"
            " child_workflow_id, error) VALUES (%(id)s, %(number)s, %(name)s, %(child)s, %(error)s)",
            id=workflow_id,
            number=number,
            name=name,
            child=child,
            error=error,
        )


def test_a_child_whose_result_a_fork_or_a_wait_will_read_is_not_deleted(api: Api, database: Database) -> None:
    insert(database, ["p"], status="SUCCESS")
    insert(database, ["c"], status="SUCCESS", parent_workflow_id="p")
    started(database, "p", [("child", "c", None), ("DBOS.getResult", "c", None)])
    fork = api.http.post("/workflows/p/fork", json={"start_step": 2}).json()["workflow_id"]
    for path in ("c", "p?children=true"):
        answer = api.http.delete(f"/workflows/{path}")
        assert answer.status_code == 409 and f"{fork} is ENQUEUED" in answer.json()["detail"]
    assert database.run("purge_work", workflow_ids=["c"]) == []
    database.rows("UPDATE dbos.workflow_status SET status = 'ERROR' WHERE forked_from = 'p'")
    peer = Peer.start(database)
    peer.runs("w")
    database.rows(
        "INSERT INTO ops.waits (workflow_id, owner_xid, kind, subject) SELECT workflow_uuid, owner_xid,"
        " 'workflow', 'c' FROM dbos.workflow_status WHERE workflow_uuid = 'w'"
    )
    answer = api.http.delete("/workflows/c")
    assert answer.status_code == 409 and "w is PENDING" in answer.json()["detail"]
    database.rows("DELETE FROM ops.waits")
    assert api.http.delete("/workflows/c").status_code == 200


def test_what_a_fork_copies_is_not_deleted_meanwhile(
    api: Api, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert(database, ["p"], status="SUCCESS")
    insert(database, ["c"], status="SUCCESS", parent_workflow_id="p")
    started(database, "p", [("child", "c", None), ("s", None, None)])
    fork = DBOSClient.fork_workflow

    def beside_a_purge(*given: Any, **options: Any) -> Any:
        assert database.run("purge_work", workflow_ids=["p", "c"]) == []
        return fork(*given, **options)

    monkeypatch.setattr(DBOSClient, "fork_workflow", beside_a_purge)
    answer = api.http.post("/workflows/p/fork", json={"start_step": 3})
    assert answer.status_code == 202, answer.text
    path = f"/workflows/{answer.json()['workflow_id']}/steps"
    assert [step["step_id"] for step in api.http.get(path).json()["steps"]] == [1, 2]


def test_a_request_that_is_repeated_after_the_delete_starts_anew(api: Api, database: Database) -> None:
    request: dict[str, Any] = {"json": {"numbers": [1]}, "headers": {"Idempotency-Key": "k"}}
    first = api.http.post("/fibonacci/batches", **request).json()["workflow_id"]
    assert api.http.post(f"/workflows/{first}/cancel").status_code == 200
    assert api.http.delete(f"/workflows/{first}?children=true").status_code == 200
    assert ids(database) == set()
    again = api.http.post("/fibonacci/batches", **request)
    assert (again.status_code, again.json()["workflow_id"]) == (202, first)
    assert first in ids(database)
