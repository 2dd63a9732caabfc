"""The profile s3: a real server fills its demo bucket once, workers list it and reach nothing else of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from services.worker.buckets.seed_bucket import OBJECTS
from tests.container.test_observability import is_there
from tests.support.command import told
from tests.support.compose_stack import ComposeStack
from tests.support.stack import running_stack

pytestmark = [pytest.mark.container, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def stack(image: str) -> Iterator[ComposeStack]:
    """The stack with its profile."""
    if not is_there("s3"):
        missing = "NOT TESTED: no image of the S3 server (.ci/provision pulls it, or makes a stand-in)"
        if os.environ.get("HOLDFAST_REQUIRE_DOCKER", "") not in ("", "0"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    with running_stack(ComposeStack(image, profile="s3")) as started:
        yield started


def test_the_demo_bucket_is_listed_by_workers(stack: ComposeStack) -> None:
    done = stack.compose("run", "--rm", "-T", "seed").strip().splitlines()[-1]
    assert "bucket demo holds 1200 objects, 1200 of them new" in done
    answer = stack.post("/buckets/demo/listing", {"page_size": 100, "wait": True})
    assert answer["status"] == "SUCCESS", answer["error"]
    report = answer["report"]
    assert (report["pages"], report["keys"], report["bytes"]) == (12, 1200, sum(OBJECTS.values()))
    assert (report["folders"], report["complete"]) == (10, True)
    assert set(report["executors"]) <= {member.executor_id for member in stack.workers()}
    assert told(stack, "verify")["ok"], "sums add up, and no log holds the credentials"


_REACHED = """
import socket
reached = []
for name, port in (('s3', 8333), ('s3', 9333), ('s3', 8888), ('s3', 8080), ('s3', 18888), ('s3', 19333)):
    try:
        socket.create_connection((name, port), timeout=2).close()
        reached.append(port)
    except OSError:
        pass
print(reached)
"""

_WRITTEN = """
from services.worker.buckets import object_store
from services.worker.buckets.settings import BucketSettings
try:
    object_store.client(BucketSettings()).put_object(Bucket='demo', Key='planted', Body=b'')
    print('written')
except Exception as error:
    print(error.response['Error']['Code'])
"""


def test_only_s3_is_reached_and_workers_write_nothing(stack: ComposeStack) -> None:
    worker, api = stack.workers()[0], stack.api()
    assert stack.python(worker, _REACHED).strip() == "[8333]"
    assert stack.python(api, _REACHED).strip() == "[]", "the API has nothing to do with it"
    done = subprocess.run(
        ["docker", "exec", worker.container, "python", "-c", _WRITTEN], capture_output=True, text=True
    )
    assert done.stdout.strip() == "AccessDenied", done.stderr
