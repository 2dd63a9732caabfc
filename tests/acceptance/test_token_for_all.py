"""Without containers, with the token for everything: processes, probes and the command line."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.support.command import told
from tests.support.native_stack import NativeStack
from tests.support.stack import running_stack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeStack]:
    """One stack for the module."""
    started = NativeStack(tmp_path_factory.mktemp("closed"), workers=1, HOLDFAST_REQUIRE_TOKEN="true")
    with running_stack(started):
        yield started


def test_nothing_is_shown_without_the_token(stack: NativeStack) -> None:
    anyone = httpx.Client(base_url=stack.url, trust_env=False, timeout=10)
    for path, status in (("/readyz", 200), ("/metrics", 200), ("/", 200), ("/workflows", 401)):
        assert anyone.get(path).status_code == status, path
    assert anyone.get("/console/snapshot").status_code == 401
    assert anyone.post("/fibonacci/batches").status_code == 401


def test_the_command_line_finds_the_token_by_itself(stack: NativeStack) -> None:
    assert told(stack, "submit", "--count", "5", "--wait")["status"] == "SUCCESS"
    assert {row["role"] for row in told(stack, "executors")["executors"]} == {"api", "worker"}
    assert told(stack, "watch", "--once")["batches"][0]["status"] == "SUCCESS"
    assert told(stack, "token") == {"token": stack.read_admin_token()}
    assert told(stack, "verify")["ok"]


def test_the_token_is_in_no_log(stack: NativeStack) -> None:
    token = stack.read_admin_token()
    assert not [line for lines in stack.logs().values() for line in lines if token in line]
