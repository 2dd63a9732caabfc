"""Listing buckets of a real S3 server: sums, ranges in a bucket that changes, errors, limits, the client."""

from __future__ import annotations

import asyncio
import pickle
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from dbos import DBOS, DBOSPortableJSONSerializer

from holdfast.audit import checks as audit
from holdfast.audit.audit import Audit
from holdfast.durable.resources import resources
from holdfast.postgres.database import connect
from holdfast.postgres.statements import sql
from holdfast.process.process import Process
from services.holdfast_commands import SUBJECTS
from services.worker.buckets import object_store
from services.worker.buckets import workflows as buckets
from tests.support import names
from tests.support.database import Database, Server, wait_until
from tests.support.engines import client, worker_process
from tests.support.executors import workflow
from tests.support.object_server import Door, ObjectServer, door_to

# Keys that this server lists in another order than S3: "/" stands before everything.
_ODD = {"a/x": 3, "a-b": 5, "a/y/q": 7, "a.txt": 1, "a b/c": 2, "é/ü": 4, "Z": 9, "~": 6}
_OBJECTS = {f"d{number % 7}/{number:04}": number % 50 for number in range(600)} | _ODD


@pytest.fixture(scope="module")
def door(object_server: ObjectServer) -> Iterator[Door]:
    object_server.fill("objects", _OBJECTS.items())
    with door_to(object_server) as made:
        yield made


@pytest.fixture(autouse=True)
def _open(request: pytest.FixtureRequest) -> None:
    if "worker" in request.fixturenames:
        door: Door = request.getfixturevalue("door")
        door.faults.clear()
        door.always, door.delay_seconds, door.most_at_once = "", 0.0, 0
        door.requests.clear()


class Worker:
    """A worker's life, and listings on it."""

    def __init__(self, database: Database, process: Process) -> None:
        self.database, self.process = database, process
        self._client = client(database)

    def start(
        self, bucket: str, *, page_size: int = 50, max_pages: int = 100, prefix: str = "", **more: Any
    ) -> str:
        listing_id = f"listing-{uuid.uuid4().hex}"
        args = (bucket, prefix, more.get("start_after", ""), page_size, max_pages)
        self.enqueue(names.BUCKET_LISTING, listing_id, *args)
        return listing_id

    def enqueue(self, name: str, workflow_id: str, *args: Any) -> None:
        self._client.enqueue(
            {
                "queue_name": names.BUCKET_LISTINGS_QUEUE,
                "workflow_name": name,
                "workflow_id": workflow_id,
                "app_version": self.process.settings.version_name("worker"),
            },
            *args,
        )

    def ended(self, listing_id: str, seconds: float = 30) -> Any:
        """The report, or what stands in its place."""
        wait_until(
            lambda: workflow(self.database, listing_id)["status"] in ("SUCCESS", "ERROR"),
            f"end of {listing_id}",
            seconds=seconds,
        )
        [row] = self._client.list_workflows(workflow_ids=[listing_id])
        return row.output if row.status == "SUCCESS" else f"ERROR {row.error}"

    def list(self, bucket: str, **how: Any) -> Any:
        return self.ended(self.start(bucket, **how))


@pytest.fixture(scope="module")
def worker(server: Server, object_server: ObjectServer, door: Door) -> Iterator[Worker]:
    settings = {**object_server.settings(door.url), "s3_timeout_seconds": 1.0}
    with Database.lent(server) as database, worker_process(database, **settings) as process:
        queues = {names.BUCKET_LISTINGS_QUEUE, names.BUCKET_PAGES_QUEUE}
        wait_until(lambda: queues <= set(process.waker._wake_events), "the queues' threads run")
        yield Worker(database, process)


def test_the_report_is_what_a_plain_count_finds(worker: Worker) -> None:
    listing_id = worker.start("objects")
    report = worker.ended(listing_id)
    assert (report["keys"], report["bytes"]) == (len(_OBJECTS), sum(_OBJECTS.values()))
    assert report["pages"] == 13
    assert report["complete"] is True
    assert report["next_start_after"] is None
    assert report["folders"] == 7 + len({"a/", "a b/", "é/"})
    found = {group["prefix"]: (group["keys"], group["bytes"]) for group in report["top"]}
    for folder in (*(f"d{n}/" for n in range(7)), "a/", "a b/", "é/"):
        below = [size for key, size in _OBJECTS.items() if key.startswith(folder)]
        assert found[folder] == (len(below), sum(below))
    assert report["loose"] == {"prefix": "", "keys": 4, "bytes": 21}
    assert sum(report["executors"].values()) == 13
    rows = worker.database.rows(
        "SELECT c.workflow_uuid, count(o.function_id) AS recorded FROM dbos.workflow_status c"
        " LEFT JOIN dbos.operation_outputs o USING (workflow_uuid)"
        " WHERE c.parent_workflow_id = %(id)s GROUP BY 1",
        id=listing_id,
    )
    assert [row["recorded"] for row in rows] == [1] * 13
    with closing(connect(worker.process.settings, purpose="test")) as connection:
        it = Audit(connection, worker.process.settings, SUBJECTS, settle_seconds=1)
        assert audit.recorded_once(it)["ok"]
        worker.database.rows(
            "UPDATE dbos.workflow_output SET output = replace(output, '\"keys\":', '\"keys\":1')"
            " WHERE workflow_uuid = %(id)s",
            id=listing_id,
        )
        told = audit.recorded_once(it)
        assert not told["ok"]
        assert listing_id in told["details"][0]
        largest = 2**63 - 1
        worker.database.rows(
            "UPDATE dbos.workflow_output o"
            " SET output = regexp_replace(o.output, '\"bytes\": *[0-9]+', %(bytes)s)"
            " FROM dbos.workflow_status w"
            " WHERE w.workflow_uuid = o.workflow_uuid AND w.parent_workflow_id = %(id)s",
            id=listing_id,
            bytes=f'"bytes": {largest}',
        )
        [progress] = worker.database.rows(sql("listing_progress"), workflow_id=listing_id)
        assert (progress["completed"], progress["bytes"]) == (13, 13 * largest)
        worker.database.rows("DELETE FROM dbos.workflow_status WHERE workflow_uuid = %(id)s", id=listing_id)


def test_a_limit_of_pages_ends_it_where_the_next_one_goes_on(worker: Worker) -> None:
    first = worker.list("objects", max_pages=3)
    assert (first["pages"], first["keys"], first["complete"]) == (3, 150, False)
    rest = worker.list("objects", start_after=first["next_start_after"])
    assert first["keys"] + rest["keys"] == len(_OBJECTS)
    assert first["bytes"] + rest["bytes"] == sum(_OBJECTS.values())
    below = worker.list("objects", prefix="d3/", page_size=10)
    assert below["keys"] == sum(key.startswith("d3/") for key in _OBJECTS)
    assert (below["folders"], below["loose"]["keys"]) == (0, below["keys"])
    assert worker.list("objects", prefix="nothing/")["pages"] == 0


def test_ranges_hold_while_the_bucket_changes(worker: Worker, object_server: ObjectServer) -> None:
    object_server.fill("changing", [(key, 1) for key in ("a/1", "a/3", "a/5", "a-b", "b", "c")])
    settings = worker.process.settings

    def pages() -> list[tuple[str, str]]:
        ends = asyncio.run(buckets.cut.__wrapped__("changing", "", "", 2, 10))["ends"]  # type: ignore[attr-defined]
        return list(zip(["", *ends], ends, strict=False))

    ranges = pages()
    assert ranges == [("", "a/3"), ("a/3", "a-b"), ("a-b", "c")]
    owner = object_server.owner
    for key in ("a/2", "a/21", "a/22", "a/4", "bb"):
        owner.put_object(Bucket="changing", Key=key, Body=b"x")
    for key in ("a/3", "a-b", "c"):
        owner.delete_object(Bucket="changing", Key=key)
    # Behind all that was cut: no page's.
    owner.put_object(Bucket="changing", Key="d", Body=b"x")
    read = [buckets._read("changing", "", begin, end, 2) for begin, end in ranges]
    assert [page["keys"] for page in read] == [4, 2, 2], "grown, its end deleted, and both"
    listed = object_store.list_objects(settings, "changing", "", "", 100)
    assert sum(page["keys"] for page in read) == len(listed.objects) - 1


@pytest.mark.parametrize("fault", ["503", "garbage", "reset", "slow"])
def test_what_passes_is_tried_again(worker: Worker, door: Door, fault: str) -> None:
    door.faults.extend([fault, "", fault, "", fault])
    report = worker.list("objects", page_size=200)
    assert report["keys"] == len(_OBJECTS)
    assert not door.faults


def test_what_does_not_pass_ends_at_once_and_says_what_to_do(
    server: Server, worker: Worker, object_server: ObjectServer, door: Door
) -> None:
    missing = worker.list("no-such-bucket")
    assert "There is no bucket no-such-bucket on the S3 server (HTTP 404, NoSuchBucket)" in missing
    assert len(door.requests) == 1, "asked once"
    object_store.close()
    wrong = object_server.credentials("wrong", "test-reader", "not-the-secret")
    right = worker.process.settings.s3_credentials_file
    try:
        for file, said in (
            (wrong, "(HTTP 403, SignatureDoesNotMatch)"),
            (wrong.with_name("none"), "no credentials"),
        ):
            object.__setattr__(worker.process.settings, "s3_credentials_file", file)
            door.requests.clear()
            told = worker.list("objects")
            assert said in told
            assert "HOLDFAST_S3_CREDENTIALS_FILE" in told
            assert "not-the-secret" not in told
            assert len(door.requests) <= 1
            object_store.close()
    finally:
        object.__setattr__(worker.process.settings, "s3_credentials_file", right)
        object_store.close()


def test_a_server_that_stays_away_is_given_up(
    worker: Worker, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda seconds, *rest: sleep(min(seconds, 0.05), *rest))
    door.always = "503"
    told = worker.list("objects")
    assert (
        f"cannot answer at the moment (HTTP 503, SlowDown). Try again later. {buckets.ATTEMPTS} attempts"
        in told
    )
    assert len(door.requests) == buckets.ATTEMPTS


def test_one_client_a_process_which_no_row_ever_holds(worker: Worker) -> None:
    object_store.close()
    built: list[Any] = []
    threads = [
        threading.Thread(target=lambda: built.append(object_store.client(worker.process.settings)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(one) for one in built}) == 1
    worker.list("objects", page_size=300)
    assert object_store.client(worker.process.settings) is built[0]
    with pytest.raises(TypeError):
        DBOSPortableJSONSerializer().serialize(built[0])
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        pickle.dumps(built[0])


class _Naive:
    """The naive form: the client is state of an instance, which a step hands to the next one."""

    def __init__(self) -> None:
        self.client = object_store.client(resources().settings)


@DBOS.step(name="naive.open")
def _open_naively() -> _Naive:
    return _Naive()


@DBOS.workflow(name="naive.listing", max_recovery_attempts=None)
def _naive_listing() -> int:
    return len(_open_naively().client.list_objects_v2(Bucket="objects")["Contents"])


def test_the_naive_form_cannot_be_stored(worker: Worker, door: Door) -> None:
    """What a step returns is recorded before anyone gets it, and a client cannot be: nothing is listed."""
    worker.enqueue("naive.listing", "naive-1")
    told = worker.ended("naive-1")
    assert "_Naive cannot be stored" in told
    assert not door.requests
