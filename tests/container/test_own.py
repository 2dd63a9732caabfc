"""From the plain image to one with a module of somebody's own, under work, (docs/operate/upgrading.md)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.compose_stack import ComposeStack
from tests.support.stack import ROOT, running_stack, wait_for

pytestmark = [pytest.mark.container, pytest.mark.timeout(600)]

LINES = [{"article": article, "count": 1, "cents": 250} for article in ("pen", "ink", "pad", "cap")]


@pytest.fixture
def orders_image(image: str) -> Iterator[str]:
    """The image that examples/Dockerfile makes of it."""
    name = f"{image}-orders"
    command = [
        "docker",
        "build",
        "--quiet",
        "--tag",
        name,
        "--build-arg",
        f"HOLDFAST_IMAGE={image}",
        "examples",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    yield name
    subprocess.run(["docker", "image", "rm", name], capture_output=True)


@pytest.mark.skipif(not os.environ.get("HOLDFAST_UPGRADES"), reason="takes a minute: `make upgrades` runs it")
def test_a_module_comes_with_a_new_image(image: str, orders_image: str) -> None:
    stack = ComposeStack(image, HOLDFAST_DRAIN_SECONDS="2")
    with running_stack(stack):
        batch = stack.start_batch(numbers=[31] * 30)
        old = stack.workers()
        wait_for(lambda: stack.running(batch), 20, "the batch runs")

        stack.image = orders_image
        stack.settings["HOLDFAST_MODULES"] = "orders"
        stack.compose("run", "--rm", "--no-deps", "-T", "migrate")
        up = ("up", "--detach", "--wait", "--no-build")
        stack.compose(*up, "--no-deps", "--no-recreate", "--scale", "worker=4", "worker")
        stack.docker("stop", *(member.container for member in old))
        stack.docker("rm", *(member.container for member in old))
        stack.compose(*up)

        stack.finished_batch(batch, 180)
        assert stack.get("/stranded")["stranded"] == []
        new = {member.executor_id: member for member in stack.workers()}
        assert not set(new) & {member.executor_id for member in old}
        children = (
            f"SELECT workflow_uuid AS id FROM dbos.workflow_status WHERE parent_workflow_id = '{batch}'"
        )
        ids = [row["id"] for row in stack.query(children)]
        assert {move["kind"] for move in stack.handovers([batch, *ids])} <= {"handover"}

        order = {"order_id": "o-1", "lines": LINES, "packing_seconds": 1}
        body = {"workflow": "orders.fulfil", "arguments": order}
        started = stack.post("/workflows", body)["workflow_id"]
        wait_for(lambda: stack.get(f"/workflows/{started}/steps")["steps"], 20, "the first line is shipped")
        killed = new[stack.get(f"/workflows/{started}")["executor_id"]]
        stack.crash(killed)
        done = stack.finished(started, 30)
        assert done["output"]["total_cents"] == 1000
        assert done["executor_id"] != killed.executor_id


def test_a_mounted_module_is_found(image: str) -> None:
    """As examples/compose.yaml lays it over compose.yaml."""
    stack = ComposeStack(image, override="examples/compose.yaml")
    code = "import os; from holdfast.durable import registry; registry.load([os.environ['HOLDFAST_MODULES']])"
    code += "; print(sorted(registry.startable()))"
    try:
        told = stack.compose("run", "--rm", "--no-deps", "-T", "worker", "python", "-c", code)
        assert told.strip() == "['orders.fulfil', 'orders.take_stock']"
    finally:
        stack.compose("down", "--volumes", "--remove-orphans")
