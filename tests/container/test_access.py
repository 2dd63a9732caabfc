"""Published beyond loopback: refused without the token for everything, and what works with it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from tests.support.compose_stack import ComposeStack
from tests.support.stack import running_stack

pytestmark = [pytest.mark.container, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def bridge() -> str:
    """An address of this machine that is not loopback, and that only containers of its own reach."""
    template = "{{(index .IPAM.Config 0).Gateway}}"
    command = ["docker", "network", "inspect", "bridge", "--format", template]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def stack(image: str, bridge: str) -> Iterator[ComposeStack]:
    started = ComposeStack(
        image,
        workers=1,
        HOLDFAST_PUBLISH_ADDRESS=bridge,
        HOLDFAST_REQUIRE_TOKEN="true",
        HOLDFAST_LOG_LEVEL="INFO",
    )
    with running_stack(started):
        yield started


def test_without_the_token_it_is_refused_and_the_message_shows(image: str, bridge: str) -> None:
    stack = ComposeStack(image, workers=1, HOLDFAST_PUBLISH_ADDRESS=bridge)
    try:
        with pytest.raises(AssertionError, match="secrets"):
            stack.start()
        shown = stack.compose("logs", "--no-log-prefix", "--tail", "5", "secrets")
    finally:
        stack.down()
    assert f"HOLDFAST_PUBLISH_ADDRESS={bridge} " in shown
    assert "HOLDFAST_REQUIRE_TOKEN=true" in shown


def test_with_it_everything_works_for_those_who_have_it(stack: ComposeStack) -> None:
    anyone = httpx.Client(base_url=stack.url, trust_env=False, timeout=10)
    for path, status in (("/readyz", 200), ("/metrics", 200), ("/", 200), ("/workflows", 401)):
        assert anyone.get(path).status_code == status, path
    assert anyone.post("/nested").status_code == 401
    admin = stack.admin()
    started = anyone.post("/fibonacci/batches", json={"count": 5}, headers=admin)
    assert started.status_code == 202
    assert anyone.get(f"/fibonacci/batches/{started.json()['workflow_id']}", headers=admin).status_code == 200
    for host, probe, page in (("evil.example", 421, 421), ("api:8000", 200, 421), ("localhost", 200, 200)):
        for path, status in (("/readyz", probe), ("/", page)):
            assert anyone.get(path, headers={"Host": host}).status_code == status, host


def test_the_command_line_inside_has_it(stack: ComposeStack) -> None:
    batch = ["holdfast", "submit", "--count", "5", "--wait", "--json"]
    done = json.loads(stack.compose("exec", "-T", "api", *batch))
    assert done["status"] == "SUCCESS"
    listed = json.loads(stack.compose("exec", "-T", "api", "holdfast", "executors", "--json"))
    assert {row["role"] for row in listed["executors"]} == {"api", "worker"}


def test_open_files_are_bounded(stack: ComposeStack) -> None:
    for service in ("api", "worker"):
        assert stack.compose("exec", "-T", service, "sh", "-c", "ulimit -n").strip() == "8192"
