"""An application of a user's beside the Compose project, as ``holdfast app add --compose`` writes it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from holdfast.installations import compose_installation
from holdfast.installations.applications import add_application, applications, remove_application
from holdfast.installations.compose_application import write_compose_file
from holdfast.installations.compose_installation import ComposeTools
from tests.support.compose_stack import ComposeStack
from tests.support.stack import running_stack, wait_for

pytestmark = [pytest.mark.container, pytest.mark.timeout(600)]

NAME = "storefront"
_MAIN = """
import os, time
from dbos import DBOS
DBOS(config={"name": "storefront", "system_database_url": os.environ["DBOS_SYSTEM_DATABASE_URL"],
             "application_version": "1"})
@DBOS.step()
def pack(number):
    print("pack", number, flush=True)
    time.sleep(0.2)
    return number
@DBOS.workflow()
def checkout():
    paid = DBOS.recv("payment", timeout_seconds=120)
    return [paid, *(pack(number) for number in range(10))]
DBOS.launch()
DBOS.register_queue("checkouts", worker_concurrency=1)
while True:
    time.sleep(1)
"""
_START = """
import os, sys
from dbos import DBOSClient
client = DBOSClient(system_database_url=os.environ["DBOS_SYSTEM_DATABASE_URL"], application_name="storefront")
if sys.argv[1] == "enqueue":
    print(client.enqueue({"queue_name": "checkouts", "workflow_name": "checkout"}).workflow_id)
elif sys.argv[1] == "pay":
    client.send(sys.argv[2], "paid", "payment")
else:
    row = client.list_workflows(workflow_ids=[sys.argv[2]])[0]
    print(row.status, row.executor_id, row.output)
"""


def test_three_containers_of_an_application_and_one_is_killed(
    image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file starts the service beside the stack, and a waiting checkout survives."""
    stack = ComposeStack(image, workers=1)
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path / "home"))
    with running_stack(stack):
        for name, value in {**stack.environment, "COMPOSE_PROJECT_NAME": stack.project}.items():
            monkeypatch.setenv(name, value)
        tools = compose_installation.ComposeInstallation().postgres_tools()
        assert isinstance(tools, ComposeTools)
        added = add_application(tools, NAME)
        assert add_application(tools, NAME) == added
        (tmp_path / "main.py").write_text(_MAIN)
        (tmp_path / "client.py").write_text(_START)
        (tmp_path / "Dockerfile").write_text(f"FROM {image}\nCOPY main.py client.py /app/\nEXPOSE 9464\n")
        tmp_path.chmod(0o755)
        write_compose_file(tmp_path / "compose.yaml", added, command="python /app/main.py")

        def compose(*words: str) -> str:
            done = subprocess.run(
                ["docker", "compose", "--project-name", stack.project, *words],
                cwd=tmp_path,
                env={k: v for k, v in os.environ.items() if k != "COMPOSE_FILE"},
                capture_output=True,
                text=True,
                timeout=240,
            )
            assert done.returncode == 0, done.stderr[-3000:]
            return done.stdout.strip()

        def client(*words: str) -> str:
            return compose("exec", "-T", NAME, "python", "/app/client.py", *words)

        before = compose("ps", "--quiet", "postgres")
        compose("up", "--build", "--detach", "--no-recreate", "--scale", f"{NAME}=3", NAME)
        assert compose("ps", "--quiet", "postgres") == before, "the stack beside it stays as it is"

        def state() -> dict[str, Any]:
            (row,) = [row for row in applications(tools) if row["application"] == NAME]
            return row

        wait_for(lambda: state()["live_executors"] == 3, 60, "three executors of the application")
        assert state()["dbos_version"]
        workflow_id = client("enqueue")
        wait_for(lambda: client("show", workflow_id).startswith("PENDING"), 30, "the checkout runs")
        executor = client("show", workflow_id).split()[1]
        containers = [json.loads(line) for line in compose("ps", "--format", "json", NAME).splitlines()]
        (victim,) = [row["Name"] for row in containers if row["ID"][:10] in executor]
        subprocess.run(["docker", "kill", victim], check=True, capture_output=True)
        client_still = next(row["Name"] for row in containers if row["Name"] != victim)

        def ask(*words: str) -> str:
            done = subprocess.run(
                ["docker", "exec", client_still, "python", "/app/client.py", *words],
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()

        wait_for(
            lambda: (
                ask("show", workflow_id).startswith("PENDING")
                and ask("show", workflow_id).split()[1] != executor
            ),
            30,
            "another container has it",
        )
        ask("pay", workflow_id)
        wait_for(lambda: ask("show", workflow_id).startswith("SUCCESS"), 60, "the checkout ends")
        assert "['paid', 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]" in ask("show", workflow_id)
        with pytest.raises(Exception, match="2 live executors"):
            remove_application(tools, NAME)
        compose("rm", "--force", "--stop", NAME)
        wait_for(lambda: state()["live_executors"] == 0, 30, "they have ended")
        remove_application(tools, NAME)
