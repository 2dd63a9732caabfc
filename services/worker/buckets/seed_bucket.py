"""Fills a bucket for listings: ``python -m services.worker.buckets.seed_bucket NAME``.

It is the one-shot container of Compose's profile s3. It writes 1,200 small objects in ten folders, always the
same, and keeps existing ones.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from services.worker.buckets import object_store
from services.worker.buckets.settings import BucketSettings

OBJECTS = {f"{number % 10}/{number:05}": number % 1000 for number in range(1200)}
"""The objects' sizes in bytes, by key."""
_PATIENCE_SECONDS = 60.0


def main() -> None:
    """Fills the bucket and logs one line of JSON. Exits with 1 if the server does not accept the objects."""
    bucket = sys.argv[1]
    client = object_store.client(BucketSettings())
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            written = _fill(client, bucket)
            break
        except (BotoCoreError, ClientError) as error:
            # The server answers before it has room for objects.
            if time.monotonic() > deadline:
                _say("ERROR", f"cannot fill bucket {bucket}: {type(error).__name__}")
                sys.exit(1)
            time.sleep(1)
    _say("INFO", f"bucket {bucket} holds {len(OBJECTS)} objects, {written} of them new")


def _fill(client: Any, bucket: str) -> int:
    try:
        client.create_bucket(Bucket=bucket)
    except ClientError as error:
        if "BucketAlready" not in str(error):
            raise
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    there = {found["Key"] for page in pages for found in page.get("Contents", [])}
    missing = [key for key in OBJECTS if key not in there]
    with ThreadPoolExecutor(8) as threads:
        puts = [
            threads.submit(client.put_object, Bucket=bucket, Key=key, Body=b"x" * OBJECTS[key])
            for key in missing
        ]
        for put in puts:
            put.result()
    return len(missing)


def _say(level: str, message: str) -> None:
    print(json.dumps({"level": level, "logger": "seed_bucket", "message": message}))


if __name__ == "__main__":
    main()
