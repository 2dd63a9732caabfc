"""What a user installs: the wheel in a fresh environment, without the packages of Holdfast's own stack."""

from __future__ import annotations

import json
import re
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.support import environments
from tests.support.environments import Environment
from tests.support.stack import ROOT

NEED_THE_STACK = (
    "holdfast.api",
    "holdfast.application",
    "holdfast.observability.logs",
    "holdfast.process",
    "holdfast.web",
)
"""Only processes of the stack import these."""

APPLICATION = """
import sys
from dbos import DBOS, DBOSConfig

config: DBOSConfig = {"name": "plain", "system_database_url": f"sqlite:///{sys.argv[1]}"}
DBOS(config=config)

@DBOS.step()
def double(number: int) -> int:
    return 2 * number

@DBOS.workflow()
def work(number: int) -> int:
    return double(number) + 1

if __name__ == "__main__":
    import holdfast
    DBOS.launch()
    print(holdfast.__version__, work(20))
"""

IMPORT_ALL = """
import importlib, json, pkgutil
import holdfast

missing = {}
for module in pkgutil.walk_packages(holdfast.__path__, "holdfast."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        missing[module.name] = error.name
print(json.dumps(missing))
"""


@pytest.fixture(scope="module")
def wheel() -> Path:
    return environments.wheel()


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel alone."""
    made = Environment(tmp_path_factory.mktemp("light") / "venv")
    made.install(str(wheel))
    return made


def stack_packages() -> set[str]:
    """The packages of the extra ``stack``, without DBOS, which everybody has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    names = (re.split(r"[^\w.-]", line)[0].lower() for line in project["optional-dependencies"]["stack"])
    return {*names} - {"dbos", "tzdata"}


def test_the_wheel_holds_the_package_with_its_data_and_nothing_else(wheel: Path) -> None:
    assert re.fullmatch(r"holdfast_dbos-[\d.]+-py3-none-any\.whl", wheel.name)
    files = {str(file.relative_to(ROOT)) for file in (ROOT / "holdfast").rglob("*") if file.is_file()}
    expected = {file for file in files if "__pycache__" not in file}
    with zipfile.ZipFile(wheel) as archive:
        contents = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert contents == {*expected, "holdfast_run.pth"}


def test_it_attaches_where_the_path_of_the_environment_is_not_read(light: Environment) -> None:
    command = "import dbos, sys; print('holdfast.attached.attachment' in sys.modules)"
    for under, expected in ((["holdfast", "run", "--"], "True"), ([], "False")):
        done = light.run(*under, "python", "-E", "-c", command)
        assert done.stdout.split() == [expected], done.stderr


def test_its_dependencies_are_few_and_agree(light: Environment) -> None:
    listed = json.loads(light.run("python", "-m", "pip", "list", "--format", "json").stdout)
    installed = {entry["name"].lower().replace("_", "-") for entry in listed}
    assert {"holdfast-dbos", "dbos"} <= installed
    assert installed & stack_packages() == set()
    assert len(installed) < 30, sorted(installed)
    checked = light.run("python", "-m", "pip", "check")
    assert checked.returncode == 0, checked.stdout


def test_an_application_runs_with_it_and_imports_it(light: Environment, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(APPLICATION, "utf-8")
    done = light.run("python", str(tmp_path / "main.py"), str(tmp_path / "plain.sqlite"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "41"


def test_everything_but_the_stacks_own_processes_imports_without_the_extra(light: Environment) -> None:
    done = light.run("python", "-c", IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    missing = json.loads(done.stdout)
    assert missing, "the extra is installed here"
    assert {name: package for name, package in missing.items() if not name.startswith(NEED_THE_STACK)} == {}


def test_the_command_says_what_needs_the_extra(light: Environment) -> None:
    assert light.run("holdfast", "--help").returncode == 0
    done = light.run("holdfast", "watch", "--once", HOLDFAST_URL="http://127.0.0.1:1")
    assert done.returncode == 1
    assert "holdfast_dbos-….whl[stack]" in done.stderr
    assert "Traceback" not in done.stderr
