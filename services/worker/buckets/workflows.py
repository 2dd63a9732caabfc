"""S3 listing: a workflow cuts a bucket into pages, each a queued workflow that sums up its keys.

A page is a range of keys, not a continuation token and not the keys themselves. A token is the server's,
ends when it likes and means nothing after a restart; a thousand keys are up to a megabyte in a row. A range
stays what it is while the bucket changes: ranges adjoin, so a key that stays is in exactly one, however late
its page runs and however often; one that comes or goes meanwhile counts if it is there when its page is
read. The price is a second listing of each page, which runs beside the cutting of the next ones.

What is recorded of a page is its sums (services/worker/buckets/listing.py), once; the report adds them up.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, TypedDict

from dbos import DBOS

from holdfast.durable import child_workflows
from holdfast.durable.measure import measured, timed_step
from holdfast.durable.resources import resources
from holdfast.errors import BucketUnordered, ObjectStoreError, ObjectStoreUnavailable
from holdfast.observability import tracing
from services.worker.buckets import object_store
from services.worker.buckets.declaration import LISTING, PAGE, PAGE_QUEUE
from services.worker.buckets.listing import PageSums, PageTally, Sums, Total, is_beyond, is_ordered

ATTEMPTS = 8
"""Of a step whose server is away, busy or slow: half a minute of pauses, and the waits for answers."""
CUTS_AT_ONCE = 10
"""Pages that one step cuts at most: a takeover replays so many fewer steps."""
CUT_SECONDS = 1.0
"""When a step has cut for so long, its pages begin, though they are fewer."""
AHEAD = 50
"""Unfinished pages from which on cutting waits: what the rate lets start in 10 seconds. A range is read soon
after it was cut, and a queue that is merely slow is not taken for one that stands still."""
_COLLECTED_AT_ONCE = 50


class Cut(TypedDict):
    """The last key of each page that was cut, and whether keys come after them."""

    ends: list[str]
    more: bool


class Page(PageSums):
    """A page's sums, and who read it in how many requests."""

    executor_id: str
    requests: int


class Collected(Sums):
    """All pages' sums, who read how many, and which have none."""

    executors: dict[str, int]
    failed: int
    first_failed: str | None


class ListingFailedError(Exception):
    """Some pages of a listing have no sums; the message says which and why."""


def _heals(error: BaseException) -> bool:
    return isinstance(error, ObjectStoreUnavailable)


_PATIENTLY: dict[str, Any] = {
    "retries_allowed": True,
    "max_attempts": ATTEMPTS,
    "interval_seconds": 0.25,
    "backoff_rate": 2.0,
    "should_retry": _heals,
}


def _given_up(error: ObjectStoreUnavailable) -> ObjectStoreError:
    """The last attempt's error: DBOS's own would only count retries, not say what failed."""
    return ObjectStoreError(f"{error.message} {ATTEMPTS} attempts failed.")


def _is_last_attempt() -> bool:
    status = DBOS.step_status
    return status is None or (status.current_attempt or 0) + 1 >= ATTEMPTS


def _listed(bucket: str, prefix: str, start_after: str, limit: int) -> object_store.Listed:
    """As the server lists it. Raises ``BucketUnordered`` also where it goes in circles."""
    found = object_store.list_objects(resources().settings, bucket, prefix, start_after, limit)
    keys = [key for key, _ in found.objects]
    if not is_ordered([start_after, *keys] if start_after else keys) or (found.more and not keys):
        raise BucketUnordered
    return found


@DBOS.step(name="buckets.cut", **_PATIENTLY)
async def cut(bucket: str, prefix: str, start_after: str, page_size: int, pages: int) -> Cut:
    """Cuts the next pages: their last keys. Nothing is enqueued here: run again, it may cut elsewhere."""
    with timed_step("buckets.cut"):
        ends: list[str] = []
        deadline = time.monotonic() + CUT_SECONDS
        while True:
            try:
                found = await asyncio.to_thread(
                    _listed, bucket, prefix, ends[-1] if ends else start_after, page_size
                )
            except ObjectStoreUnavailable as error:
                if ends:
                    return Cut(ends=ends, more=True)
                if _is_last_attempt():
                    raise _given_up(error) from error
                raise
            ends += [key for key, _ in found.objects[-1:]]
            if not found.more or len(ends) == pages or time.monotonic() > deadline:
                return Cut(ends=ends, more=found.more)


@DBOS.step(name="buckets.enqueue")
async def enqueue(pages: dict[str, tuple[Any, ...]], attributes: dict[str, object] | None) -> list[str]:
    """Enqueues one workflow a page, by its id; those that exist are left alone. Returns the ids."""
    with timed_step("buckets.enqueue"):
        await child_workflows.enqueue_missing(
            PAGE.name,
            pages,
            queue_name=PAGE_QUEUE.name,
            role="worker",
            attributes=attributes,
        )
        return list(pages)


@DBOS.step(name="buckets.read", **_PATIENTLY)
async def read(bucket: str, prefix: str, start_after: str, end: str, page_size: int) -> Page:
    """Sums up the keys of a range, as it is now: key by key, so that a range that grew needs no memory."""
    with timed_step("buckets.read"):
        try:
            return await asyncio.to_thread(_read, bucket, prefix, start_after, end, page_size)
        except ObjectStoreUnavailable as error:
            if _is_last_attempt():
                raise _given_up(error) from error
            raise


def _read(bucket: str, prefix: str, start_after: str, end: str, page_size: int) -> Page:
    requests = 0

    def listed(after: str, limit: int) -> object_store.Listed:
        nonlocal requests
        requests += 1
        return _listed(bucket, prefix, after, limit)

    def first_after() -> str | None:
        return next((key for key, _ in listed(end, 1).objects), None)

    tally, after, more = PageTally(prefix), start_after, True
    while more:
        found = listed(after, page_size)
        more = found.more
        for key, size in found.objects:
            if key != end and is_beyond(key, end, first_after):
                more = False
                break
            tally.add(key, size)
            after = key
            if key == end:
                more = False
                break
    return Page(**tally.sums(), executor_id=resources().executor_id, requests=requests)


@DBOS.workflow(name=PAGE.name, max_recovery_attempts=None)
async def page(  # noqa: PLR0917 - stored by position
    number: int,  # noqa: ARG001 - its label
    bucket: str,
    prefix: str,
    start_after: str,
    end: str,
    page_size: int,
) -> Page:
    """One page: the keys after ``start_after``, up to and with ``end``."""
    with measured(PAGE.name):
        return await read(bucket, prefix, start_after, end, page_size)


@DBOS.step(name="buckets.collect")
async def collect(workflow_ids: list[str], prefix: str) -> Collected:
    """Adds the pages up in their order, a few at a time."""
    with timed_step("buckets.collect"):
        total, executors = Total(prefix), dict[str, int]()
        failed: list[str] = []
        for at in range(0, len(workflow_ids), _COLLECTED_AT_ONCE):
            some = workflow_ids[at : at + _COLLECTED_AT_ONCE]
            statuses = {
                status.workflow_id: status
                for status in await DBOS.list_workflows_async(
                    workflow_ids=some, load_input=False, load_output=True
                )
            }
            for workflow_id in some:
                status = statuses.get(workflow_id)
                if status is not None and status.status == "SUCCESS" and isinstance(status.output, dict):
                    total.add(status.output)  # type: ignore[arg-type]  # as `page` stored it
                    who = status.output["executor_id"]
                    executors[who] = executors.get(who, 0) + 1
                else:
                    why = f"{status.status}: {status.error or 'unreadable'}" if status else "missing"
                    failed.append(f"{workflow_id} {why}")
        first = failed[0] if failed else None
        return Collected(**total.sums(), executors=executors, failed=len(failed), first_failed=first)


@DBOS.workflow(name=LISTING.name, max_recovery_attempts=None)
async def listing(
    bucket: str, prefix: str, start_after: str, page_size: int, max_pages: int
) -> dict[str, Any]:
    """Cuts the bucket page by page, enqueues each, and adds up what they found.

    Raises ``ListingFailedError`` when a page ended without sums. A report that is not ``complete`` met
    ``max_pages``: ``next_start_after`` is where the next listing goes on.
    """
    with measured(LISTING.name):
        listing_id = str(DBOS.workflow_id)
        after, more = start_after, True
        ids: list[str] = []
        while more and len(ids) < max_pages:
            wanted = min(CUTS_AT_ONCE, max_pages - len(ids))
            done = await cut(bucket, prefix, after, page_size, wanted)
            more, ends = done["more"], done["ends"]
            pages = {
                f"{listing_id}-{number}": (number, bucket, prefix, begin, end, page_size)
                for number, (begin, end) in enumerate(zip([after, *ends], ends, strict=False), len(ids))
            }
            # Cut and enqueued in two steps: only what is recorded may become a child, or a second run could
            # cut elsewhere than the first one enqueued.
            if pages:
                ids += await enqueue(pages, tracing.attributes())
                after = ends[-1]
                await _until_unfinished(ids, at_most=AHEAD)
        await _until_unfinished(ids, at_most=0)
        collected = await collect(ids, prefix)
        if collected["failed"]:
            raise ListingFailedError(
                f"{collected['failed']} of {len(ids)} pages have no sums, first {collected['first_failed']}"
            )
        sums = {key: value for key, value in collected.items() if "failed" not in key}
        ended = {"complete": not more, "next_start_after": after if more else None}
        return {"bucket": bucket, "prefix": prefix, "pages": len(ids), **sums, **ended}


async def _until_unfinished(ids: list[str], *, at_most: int) -> None:
    """Waits until so few of these pages are left."""
    if not ids:
        return

    def ring() -> None:
        # Nothing tells when a rate's time is over, and DBOS polls more and more seldom where executors meet.
        resources().waker.ring(PAGE_QUEUE.name)

    # In a fork from a later step they are the original's.
    await child_workflows.until_unfinished(ids[-1].rpartition("-")[0], at_most=at_most, before_waiting=ring)


def close() -> None:
    """At the process's end: lets the S3 client go."""
    object_store.close()
