"""docs/operate/deploying.md: what it names exists, and its figures are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from holdfast.postgres import budget
from holdfast.settings import Role
from services.settings import ShowcaseSettings
from tests.files.test_deployment_files import COMPOSE_ONLY, variable

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "operate" / "deploying.md").read_text("utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
ROLES_SQL = (ROOT / "postgres" / "roles.sql").read_text("utf-8")


def test_every_variable_is_known() -> None:
    stack = (ROOT / "deploy" / "swarm" / "stack.yaml").read_text("utf-8")
    known = {variable(name) for name in ShowcaseSettings.model_fields} | COMPOSE_ONLY
    folder = ROOT / "holdfast" / "installations"
    command_line = "".join(path.read_text("utf-8") for path in folder.glob("*.py"))
    known |= set(re.findall(r"HOLDFAST_[A-Z_]+", stack + ROLES_SQL + command_line))
    named = set(re.findall(r"HOLDFAST_[A-Z_]+", TEXT))
    assert len(named) > 10 and named <= known


def test_every_file_is_there() -> None:
    # Made by a command of the document itself.
    made = {"deploy/kubernetes/secrets", "deploy/kubernetes/secrets/postgres"}
    paths = (
        set(re.findall(r"(?<![\w/.])((?:deploy|docs|holdfast|postgres|services|tests)/[\w./-]*\w)", TEXT))
        - made
    )
    paths |= {f"docs/operate/{link}" for link in re.findall(r"\]\(([\w./-]+\.md)\)", TEXT)}
    assert len(paths) > 8
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(("role", "count"), [("api", 2), ("worker", 8)])
def test_the_connections_are_those_of_the_code(role: Role, count: int) -> None:
    most = budget.max_connections(ShowcaseSettings(), role)
    limit = re.search(rf"holdfast_{role} LOGIN CONNECTION LIMIT (\d+)", ROLES_SQL)
    assert limit and count == int(limit[1]) // most
    name = {"api": "API", "worker": "worker"}[role]
    assert re.search(rf"^\| {name} \| {most} \| {limit[1]}: ", TEXT, re.MULTILINE)
    assert f"lower `HOLDFAST_DATABASE_POOL_SIZE` ({ShowcaseSettings().database_pool_size} of them)" in TEXT


def test_the_times_are_the_defaults() -> None:
    for name in ("drain_seconds", "stop_grace_seconds", "clock_tolerance_seconds"):
        default = f"{ShowcaseSettings.model_fields[name].default:g}"
        assert re.search(rf"`{variable(name)}` \({default}( s)?\)", TEXT), name


def test_the_swarms_commands_are_those_that_are_run() -> None:
    """`make swarm` runs the script, the deploy and the label; the document says the same words."""
    (commands,) = [block for block in BLOCKS if "docker stack deploy" in block]
    run = (ROOT / "tests" / "support" / "swarm_stack.py").read_text("utf-8")
    for words in ("deploy/swarm/secrets.sh", "deploy/swarm/stack.yaml", "holdfast.postgres", "--label-add"):
        assert words in commands and words in run
    for variable_name in ("HOLDFAST_PUBLISH_MODE", "HOLDFAST_API_UPDATE_ORDER", "HOLDFAST_SECRETS"):
        assert variable_name in TEXT and variable_name in run
