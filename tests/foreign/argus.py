"""dbos-argus, a viewer of DBOS's tables, reads a database while Holdfast moves work in it.

It needs Python 3.12, so it runs in a container of that image, on this machine's network.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import httpx

from tests.foreign.cases import PACKAGES, Result, environment_of
from tests.foreign.ground import Lost, ground, kill_in_a_step, wait, wait_success
from tests.support.database import Server
from tests.support.stack import free_ports

_INSTALL = "pip install --quiet --root-user-action=ignore --disable-pip-version-check dbos-argus"
_VERSION = "from importlib import metadata; print(metadata.version('dbos-argus'))"


def run(server: Server, wheel: Path, folder: Path) -> Result:
    """Kills a process of Pydantic AI's application, and compares what the viewer shows with the database."""
    result = Result("dbos-argus")
    case = PACKAGES[0]
    environment = environment_of(case, wheel)
    port = free_ports(1)
    try:
        with ground(server, environment, case.program, folder / "argus") as made:
            peer = made.start()
            took, peer = kill_in_a_step(made, "seen", (peer, made.start()))
            wait_success(made, "seen")
            result.seconds_in_step.append(took)
            name = f"holdfast-argus-{port}"
            serve = f'{_INSTALL} && python -c "{_VERSION}" && exec dbos-argus --port {port}'
            command = ["docker", "run", "--rm", "--name", name, "--network", "host"]
            command += ["--env", f"ARGUS_DATABASE_URL={made.url}", "python:3.12-slim"]
            with subprocess.Popen(
                [*command, "sh", "-c", serve], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            ) as viewer:
                try:
                    assert viewer.stdout is not None
                    result.versions = {"dbos-argus": viewer.stdout.readline().strip()}
                    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                        shown = wait(lambda: _workflow(client, "seen"), "dbos-argus shows the workflow", 120)
                finally:
                    subprocess.run(["docker", "rm", "--force", name], capture_output=True, timeout=60)
            if shown.get("status") == "SUCCESS":
                result.remark = "shows the moved workflow as it is"
            else:
                result.lost = f"dbos-argus shows {shown}"
    except Lost as lost:
        result.lost = str(lost)
    return result


def _workflow(client: httpx.Client, workflow_id: str) -> Any:
    try:
        answer = client.get(f"/api/workflows/{workflow_id}")
    except httpx.TransportError:
        return None
    return answer.json() if answer.is_success else None
