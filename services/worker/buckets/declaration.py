"""The durable names of the bucket listings, and their queues."""

from typing import Final

from holdfast import DbosWorkflow, Queue, register

LISTING: Final = DbosWorkflow("buckets.listing", label="listing")
PAGE: Final = DbosWorkflow("buckets.page", label="listing: page", label_with_input="listing: page {0}")

LISTING_QUEUE: Final = Queue("bucket-listings", [LISTING], at_once=32, parents=True)
# Limits shared by all workers per S3 server: concurrent pages, and page starts per ten seconds.
PAGE_QUEUE: Final = Queue("bucket-pages", [PAGE], at_once=None, at_once_everywhere=10, rate=(50, 10))
register(
    LISTING_QUEUE,
    PAGE_QUEUE,
    steps=["buckets.cut", "buckets.enqueue", "buckets.read", "buckets.collect"],
)
