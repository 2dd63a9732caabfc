"""``docker compose up`` with nothing prepared: every scene over HTTP, and what the containers may do."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support import outage, scenes
from tests.support.compose_stack import ComposeStack
from tests.support.reporting import record
from tests.support.stack import running_stack, wait_for

pytestmark = [pytest.mark.container, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def stack(image: str) -> Iterator[ComposeStack]:
    """One project for the module, with default settings."""
    started = ComposeStack(image)
    with running_stack(started):
        yield started


def test_scopes(stack: ComposeStack) -> None:
    scenes.check_class_scope(stack)
    scenes.check_function_scope(stack)
    scenes.check_instances(stack)


def test_batches(stack: ComposeStack) -> None:
    scenes.check_doubling(stack)
    scenes.check_events(stack)


def test_nobody_is_root_and_nothing_is_published_but_the_api(stack: ComposeStack) -> None:
    for container in stack.containers():
        service, state = container["Service"], stack.inspect(container["ID"])
        published = [
            (inside, binding["HostIp"], int(binding["HostPort"]))
            for inside, bindings in (state["NetworkSettings"]["Ports"] or {}).items()
            for binding in bindings or []
        ]
        assert published == ([("8000/tcp", "127.0.0.1", stack.port)] if service == "api" else []), service
        if container["State"] != "running":
            assert (service, container["ExitCode"]) in (("secrets", 0), ("migrate", 0))
            continue
        ids = stack.docker("exec", container["ID"], "cat", "/proc/1/status")
        uids = next(line.split()[1:] for line in ids.splitlines() if line.startswith("Uid:"))
        assert "0" not in uids, f"{service} runs as root"
        assert state["HostConfig"]["ReadonlyRootfs"], service
        assert state["HostConfig"]["CapDrop"] == ["ALL"], service


def test_no_role_reaches_another_ones_secrets(stack: ComposeStack) -> None:
    worker = stack.workers()[0]
    own = stack.python(worker, "import os; print(*sorted(os.listdir('/run/holdfast')))").split()
    assert own == ["pgpass", "s3_credentials"]
    assert stack.python(worker, "import os; print(os.path.exists('/secrets/api/pgpass'))").strip() == "False"


def test_dbos_command_inside(stack: ComposeStack) -> None:
    listed = json.loads(stack.compose("exec", "-T", "api", "dbos", "workflow", "list", "--limit", "5"))
    assert 0 < len(listed) <= 5
    assert all("workflow_id" in row or "WorkflowID" in row for row in listed), listed[0]


def test_image_size(stack: ComposeStack) -> None:
    base = stack.inspect("python:3.12-slim")["Size"]
    own = stack.inspect(stack.image)["Size"]
    record("image, MB", own / 1e6)
    record("image over its base, MB", (own - base) / 1e6)
    assert own - base < 200e6


def test_cache_and_secret(stack: ComposeStack) -> None:
    scenes.check_cache_across_restarts(stack)
    scenes.check_no_secret(stack)


def test_postgres_restart_under_load(stack: ComposeStack) -> None:
    outage.check_outage(stack, [33] * 12)


def test_health_tells_the_truth(stack: ComposeStack) -> None:
    """Unhealthy while PostgreSQL is away, healthy again by itself; and the metrics port answers inside."""
    worker = stack.workers()[0]
    code = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8001/metrics').status)"
    assert stack.python(worker, code).strip() == "200"
    stack.compose("pause", "postgres")
    try:
        # 60 failures of one check per second make a container unhealthy; each check reports it immediately.
        wait_for(
            lambda: stack.inspect(worker.container)["State"]["Health"]["FailingStreak"] >= 3,
            30,
            "the healthcheck fails",
        )
    finally:
        stack.compose("unpause", "postgres")
    wait_for(
        lambda: stack.inspect(worker.container)["State"]["Health"]["FailingStreak"] == 0, 30, "healthy again"
    )


def test_logs(stack: ComposeStack) -> None:
    scenes.check_logs(stack)


@pytest.mark.parametrize("service", ["postgres", "secrets", "migrate"])
def test_logs_of_the_others_are_json_too(stack: ComposeStack, service: str) -> None:
    assert list(stack.log_objects(service))


def test_stop_keeps_it_down_with_exit_code_0(stack: ComposeStack) -> None:
    """The module's last: `docker compose stop` in the middle of work, and `start` after it."""
    batch_id = stack.start_batch(numbers=[33] * 16)
    wait_for(lambda: stack.batch(batch_id)["completed"] >= 2, 60, "some results")
    scope = stack.post("/scope/class", {"steps": 30, "step_seconds": 0.1})["workflow_id"]
    stack.compose("stop", "api", "worker")
    codes = {c["Name"]: (c["State"], c["ExitCode"]) for s in ("api", "worker") for c in stack.containers(s)}
    assert set(codes.values()) == {("exited", 0)}, codes
    assert stack.query("SELECT count(*) AS n FROM dbos.workflow_status WHERE status = 'PENDING'")[0]["n"] == 0
    stack.compose("start", "api", "worker")
    stack.workers()
    scenes.check_batch(stack.finished_batch(batch_id, 120), [33] * 16)
    assert stack.finished(scope, 60)["output"]["counters"]["durable"] == 30
