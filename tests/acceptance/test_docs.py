"""Every command of README.md and docs/ is run: here as it stands, or by the test or target named here."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.native_stack import NativeStack
from tests.support.stack import ROOT, Stack, running_stack, wait_for

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

# By the beginning of a command: the file that runs it, and words of it that stand there.
ELSEWHERE = {
    "make native": ("tests/integration/installations/test_native.py", ("up",)),
    "kill -9": ("tests/acceptance/test_tour.py", ("_PID",)),
    "cat .holdfast/logs": ("tests/acceptance/test_tour.py", (".holdfast/",)),
    ".venv/bin/holdfast executors": ("tests/acceptance/test_tour.py", (".venv/bin/holdfast",)),
    "curl -s --retry": ("tests/acceptance/test_tour.py", ("console",)),
    "make up": ("tests/integration/installations/test_native.py", ("native", "up")),
    "make test": (".ci/run", ("make test",)),
    "make venv": (".ci/run", ("make lint",)),
    "make wheel": ("tests/support/environments.py", ('"wheel"',)),
    "pip install build/wheel": ("tests/acceptance/test_wheel.py", ("made.install(str(wheel))",)),
    "holdfast migrate": ("tests/foreign/ground.py", ('"migrate"', '"--database-url"')),
    "holdfast run": ("tests/foreign/ground.py", ('"run"',)),
    "docker compose --profile observability up": (
        "tests/container/test_observability.py",
        ("observability",),
    ),
    "docker compose --profile s3 up": ("tests/container/test_s3.py", ("s3",)),
    "docker compose run --rm seed": ("tests/container/test_s3.py", ("seed",)),
    "curl -s -X POST localhost:8000/buckets": ("tests/container/test_s3.py", ("/listing",)),
    "docker node update": ("tests/support/swarm_stack.py", ("--label-add",)),
    "export HOLDFAST_IMAGE": ("tests/support/swarm_stack.py", ("HOLDFAST_IMAGE",)),
    "deploy/swarm/secrets.sh": ("tests/support/swarm_stack.py", ("deploy/swarm/secrets.sh",)),
    "docker stack deploy": ("tests/support/swarm_stack.py", ("deploy/swarm/stack.yaml",)),
    "docker exec": ("tests/support/swarm_stack.py", ("exec",)),
    "kubectl kustomize": ("tests/files/test_kubernetes_files.py", ("kustomize",)),
    "holdfast purge": ("tests/integration/retention/test_retention.py", ("purge",)),
    "holdfast backup": ("tests/acceptance/test_backup.py", ("backup",)),
    "holdfast restore": ("tests/acceptance/test_backup.py", ("restore",)),
    "0 * * * *": ("tests/acceptance/test_backup.py", ("backup",)),
    "HOLDFAST_OTLP_ENDPOINT=": ("tests/acceptance/test_tracing.py", ("HOLDFAST_OTLP_ENDPOINT",)),
    "docker compose build": ("tests/container/conftest.py", ('"compose"', '"build"')),
    "docker compose up --detach --wait --no-deps": (
        "tests/container/test_own.py",
        ("--no-deps", "--no-recreate", "--scale"),
    ),
    "cd examples/storefront": ("tests/container/test_storefront.py", ("FOLDER",)),
    "docker compose up --detach": ("tests/container/test_storefront.py", ('"up"',)),
    "docker kill holdfast-storefront": ("tests/container/test_storefront.py", ('"kill"',)),
    "docker stop holdfast-worker": ("tests/container/test_own.py", ("stop",)),
    "docker rm holdfast-worker": ("tests/container/test_own.py", ("rm",)),
    "docker compose up --detach --wait": ("tests/support/compose_stack.py", ('"up", "--detach", "--wait"',)),
    "docker compose run --rm --no-deps migrate": ("tests/acceptance/test_dbos_upgrade.py", ("migrate",)),
    "HOLDFAST_MODULES=examples.orders make native": ("examples/test_orders_stack.py", ("HOLDFAST_MODULES",)),
    "holdfast operations": ("tests/unit/cli/test_cli.py", ('"operations"',)),
    "holdfast start": ("examples/test_orders_stack.py", ("start",)),
    "curl -s -X POST localhost:8000/workflows": ("examples/test_orders_stack.py", ("/workflows",)),
    "docker compose -f compose.yaml -f examples/compose.yaml": ("tests/container/test_own.py", ("examples",)),
    "docker build --tag holdfast-orders examples": ("tests/container/test_own.py", ("examples",)),
    "HOLDFAST_IMAGE=holdfast-orders": ("tests/container/test_own.py", ("HOLDFAST_MODULES",)),
    ".venv/bin/python -m pytest examples": ("pyproject.toml", ("examples",)),
}
NEVER = {
    "HOLDFAST_ROLE_SECRETS=": "needs a PostgreSQL of somebody else's; postgres/start.sh runs the same file",
    "kubectl --namespace holdfast delete": "no cluster: deploy/kubernetes is marked as not run",
    "kubectl apply": "no cluster: deploy/kubernetes is marked as not run",
}


def commands(text: str) -> list[str]:
    """Of its blocks of shell, without comments; of a console's only what was typed."""
    found = []
    for kind, block in re.findall(r"```(sh|console)\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if kind == "console" and not line.startswith("$ "):
                continue
            command = re.sub(r"\s+#.*", "", line.removeprefix("$ ")).strip()
            if command and not command.startswith("#"):
                found.append(re.sub(r"\s+", " ", command))
    return found


ALL = {
    command: str(page.relative_to(ROOT)) for page in PAGES for command in commands(page.read_text("utf-8"))
}


def known(command: str) -> str | None:
    """The longest beginning under which it is listed."""
    found = [begin for begin in (*ELSEWHERE, *NEVER) if command.startswith(begin)]
    return max(found, key=len) if found else None


HERE = [command for command in ALL if known(command) is None]


def test_what_is_not_run_here_is_run_where_it_says() -> None:
    assert len(ALL) > 30
    unused = {*ELSEWHERE, *NEVER} - {known(command) for command in ALL}
    assert not unused, "no document has these any more"
    for file, words in ELSEWHERE.values():
        text = (ROOT / file).read_text("utf-8")
        assert [word for word in words if word not in text] == [], file


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(NativeStack(tmp_path_factory.mktemp("docs"))) as stack:
        yield stack


def test_the_rest_is_run_as_it_stands(stack: Stack) -> None:
    """One after the other, as a reader does it; ids in them are those that came before."""
    assert HERE, "README.md has commands to try"
    ids: dict[str, str] = {}
    for command in HERE:
        assert command.startswith("curl -s "), f"{ALL[command]}: who runs this? {command}"
        here = command.replace("localhost:8000", stack.url.removeprefix("http://"))
        here = re.sub(r"([a-z-]+)-[0-9a-f]+…", lambda found: ids[found[1]], here)
        done = subprocess.run(
            ["bash", "-c", here], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
        )
        answer = json.loads(done.stdout)
        assert "status" in answer or "executors" in answer, f"{here}: {done.stdout}"
        if "-X POST" in here:
            kind, _, _ = answer["workflow_id"].rpartition("-")
            ids[kind] = answer["workflow_id"]
    for workflow_id in ids.values():
        path = f"/workflows/{workflow_id}"
        wait_for(lambda path=path: stack.get(path)["status"] == "SUCCESS", 60, f"{workflow_id} succeeds")
    assert set(ids) == {"batch", "class-scope"}
