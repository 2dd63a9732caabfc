"""S3 listing: a workflow cuts a bucket into pages. Each page is a queued workflow that sums up its keys.

A page is a range of keys, not a continuation token and not the keys themselves. A token belongs to the
server, which may end it at any time, and it means nothing after a restart. A thousand keys take up to a
megabyte in a row. A range keeps its meaning while the bucket changes. Ranges adjoin, so a key that stays is
in exactly one, however late and often its page runs. A key that is added or deleted meanwhile counts if it
exists when its page is read. The price is a second listing of each page, which runs concurrently with cutting
the next ones.

The record of a page is its sums (services/worker/buckets/listing.py), once. The report adds them up.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from dbos import DBOS
from typing_extensions import TypedDict

from holdfast import Queue, attempt, register, step, workflow
from holdfast.runtime import enqueue_missing, resources, trace_attributes, until_unfinished
from services.worker.buckets import object_store
from services.worker.buckets.errors import BucketUnordered, ObjectStoreError, ObjectStoreUnavailable
from services.worker.buckets.listing import PageSums, PageTally, Sums, Total, is_beyond, is_ordered
from services.worker.buckets.settings import BucketSettings

ATTEMPTS = 8
"""Attempts of a step while the server is away, busy or slow: half a minute of pauses plus timeouts."""
CUTS_AT_ONCE = 10
"""The most pages that one step cuts. A takeover then replays fewer steps."""
CUT_SECONDS = 1.0
"""The time after which a step ends, so that its pages start even if they are fewer."""
AHEAD = 50
"""The number of unfinished pages at which cutting waits: the starts that the rate allows in 10 seconds.

A range is then read soon after it was cut, and a slow queue is not mistaken for a stalled one.
"""
_COLLECTED_AT_ONCE = 50


class Cut(TypedDict):
    """The last key of each cut page, and whether further keys follow."""

    ends: list[str]
    more: bool


class Page(PageSums):
    """A page's sums, its executor, and the number of its requests."""

    executor_id: str
    requests: int


class Collected(Sums):
    """All pages' sums, the number of pages by executor, and the pages without sums."""

    executors: dict[str, int]
    failed: int
    first_failed: str | None


class ListingFailedError(Exception):
    """Some pages of a listing have no sums. The message names the first one and the reason."""


def _heals(error: BaseException) -> bool:
    return isinstance(error, ObjectStoreUnavailable)


_PATIENTLY: dict[str, Any] = {"attempts": ATTEMPTS, "wait_seconds": 0.25, "should_retry": _heals}


def _given_up(error: ObjectStoreUnavailable) -> ObjectStoreError:
    """Returns the last attempt's error, which names the number of attempts."""
    return ObjectStoreError(f"{error.message} {ATTEMPTS} attempts failed.")


def _listed(bucket: str, prefix: str, start_after: str, limit: int) -> object_store.Listed:
    """Lists objects. Raises ``BucketUnordered``, also if the server lists in circles."""
    found = object_store.list_objects(
        BucketSettings.of(resources().settings), bucket, prefix, start_after, limit
    )
    keys = [key for key, _ in found.objects]
    if not is_ordered([start_after, *keys] if start_after else keys) or (found.more and not keys):
        raise BucketUnordered
    return found


@step("buckets.cut", **_PATIENTLY)
async def cut(bucket: str, prefix: str, start_after: str, page_size: int, pages: int) -> Cut:
    """Cuts the next pages and returns their last keys. Enqueues nothing: a second run may cut elsewhere."""
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
            if attempt() >= ATTEMPTS:
                raise _given_up(error) from error
            raise
        ends += [key for key, _ in found.objects[-1:]]
        if not found.more or len(ends) == pages or time.monotonic() > deadline:
            return Cut(ends=ends, more=found.more)


@step("buckets.enqueue")
async def enqueue(pages: dict[str, tuple[Any, ...]], attributes: dict[str, object] | None) -> list[str]:
    """Enqueues one workflow per page, by id. Existing ones are left unchanged. Returns the ids."""
    await enqueue_missing(
        page.name,
        pages,
        queue_name=PAGE_QUEUE.name,
        role="worker",
        attributes=attributes,
    )
    return list(pages)


@step("buckets.read", **_PATIENTLY)
async def read(bucket: str, prefix: str, start_after: str, end: str, page_size: int) -> Page:
    """Sums up the present keys of a range, key by key, so that a range that grew needs no more memory."""
    try:
        return await asyncio.to_thread(_read, bucket, prefix, start_after, end, page_size)
    except ObjectStoreUnavailable as error:
        if attempt() >= ATTEMPTS:
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


@workflow("buckets.page", label="listing: page", label_with_input="listing: page {0}")
async def page(  # noqa: PLR0917 - stored by position
    number: int,  # noqa: ARG001 - its label
    bucket: str,
    prefix: str,
    start_after: str,
    end: str,
    page_size: int,
) -> Page:
    """Reads one page: the keys after ``start_after``, up to and including ``end``."""
    return await read(bucket, prefix, start_after, end, page_size)


@step("buckets.collect")
async def collect(workflow_ids: list[str], prefix: str) -> Collected:
    """Adds up the pages in their order, a few at a time."""
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


@workflow("buckets.listing", label="listing")
async def listing(
    bucket: str, prefix: str, start_after: str, page_size: int, max_pages: int
) -> dict[str, Any]:
    """Cuts the bucket into pages, enqueues each, and adds up their sums.

    Raises ``ListingFailedError`` if a page ended without sums. A report that is not ``complete`` reached
    ``max_pages``: the next listing continues after ``next_start_after``.
    """
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
        # Cutting and enqueueing are two steps: only recorded cuts may become children. Otherwise a second
        # run could cut elsewhere than the first one enqueued.
        if pages:
            ids += await enqueue(pages, trace_attributes())
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
    """Waits until at most ``at_most`` of these pages are unfinished."""
    if not ids:
        return

    def wake() -> None:
        # No event signals the end of a rate's period, and DBOS polls less and less often under contention.
        resources().waker.wake(PAGE_QUEUE.name)

    # After a fork from a later step, the children belong to the original.
    await until_unfinished(ids[-1].rpartition("-")[0], at_most=at_most, before_waiting=wake)


def close() -> None:
    """Closes the S3 client at the process's end."""
    object_store.close()


LISTING_QUEUE: Final = Queue("bucket-listings", [listing], at_once=32, parents=True)
# Limits shared by all workers per S3 server: concurrent pages, and page starts per ten seconds.
PAGE_QUEUE: Final = Queue("bucket-pages", [page], at_once=None, at_once_everywhere=10, rate=(50, 10))
register(LISTING_QUEUE, PAGE_QUEUE)
