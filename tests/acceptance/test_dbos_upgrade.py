"""An upgrade to a DBOS with further migrations, with work in flight (docs/operate/upgrading.md).

Twice: from the release before ours, as it was published (`make upgrades` fetches it), and, without
anything to fetch, from a schema that is one migration behind. Both take long: `make upgrades` runs them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.native_stack import NativeStack
from tests.support.releases import Releases, at_the_door, roll, send
from tests.support.stack import ROOT, clean_environment, running_stack, wait_for

OLDER = ROOT / "build" / "dbos-older"
SCHEMA, RELEASE = "a schema one migration behind", "the release before"


@pytest.fixture(params=[SCHEMA, RELEASE])
def older(request: pytest.FixtureRequest) -> str:
    """What is upgraded from."""
    if not os.environ.get("HOLDFAST_UPGRADES"):
        pytest.skip("takes half a minute: `make upgrades` runs it, and fetches the older DBOS")
    return str(request.param)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A link on the import path: to the older DBOS, later to nothing, which leaves the installed one."""
    (tmp_path / "nothing").mkdir()
    return tmp_path / "library"


@pytest.fixture
def made(tmp_path: Path) -> Releases:
    """The durable code, which stays as it is."""
    made = Releases(tmp_path / "releases")
    made.publish(made.write("A"))
    return made


@pytest.fixture
def stack(
    tmp_path_factory: pytest.TempPathFactory, older: str, library: Path, made: Releases
) -> Iterator[NativeStack]:
    """A stack of the older processes on the older schema."""
    library.symlink_to(OLDER if older == RELEASE else library.with_name("nothing"))
    settings = made.settings()
    settings["PYTHONPATH"] = f"{settings['PYTHONPATH']}{os.pathsep}{library}"
    started = NativeStack(
        tmp_path_factory.mktemp("dbos"),
        **settings,
        HOLDFAST_DRAIN_SECONDS="0.3",
        HOLDFAST_STOP_GRACE_SECONDS="8",
    )
    with running_stack(started):
        if older == SCHEMA:
            with closing(started.connect()) as connection, connection, connection.cursor() as cursor:
                cursor.execute("DROP INDEX dbos.idx_application_versions_owner_timestamp")
                cursor.execute("UPDATE dbos.dbos_migrations SET version = version - 1")
        yield started


def version(stack: NativeStack) -> int:
    return int(stack.query("SELECT version FROM dbos.dbos_migrations")[0]["version"])


def migrate(stack: NativeStack) -> None:
    """What the one-shot container runs, with the installed DBOS."""
    state = stack.state
    subprocess.run(
        [sys.executable, "-m", "holdfast.cli.dbos_command", "migrate"],
        cwd=ROOT,
        env=clean_environment(
            PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            HOLDFAST_DATABASE_HOST="127.0.0.1",
            HOLDFAST_DATABASE_PORT=str(state["postgres"]["port"]),
            HOLDFAST_DATABASE_NAME="holdfast",
            HOLDFAST_DATABASE_USER="holdfast_migrator",
            HOLDFAST_DATABASE_PASSFILE=state["passfiles"]["migrate"],
        ),
        check=True,
        capture_output=True,
        timeout=60,
    )


def test_migrations_run_under_work(stack: NativeStack, made: Releases, library: Path, older: str) -> None:
    behind = version(stack)
    if older == RELEASE:
        assert any("Initializing DBOS (v3.3.0)" in line for line in stack.logs()["worker-1"])
    ids = [send(stack, f"old-{n}") for n in range(4)]
    at_the_door(stack, *ids)
    library.unlink()
    library.symlink_to(library.with_name("nothing"))

    # Whoever is new before the migration waits for it, says so, and hurts nobody.
    first, second = stack.workers()
    stack.stop(first)
    assert stack.exited(first, 30).code == 0
    wait_for(
        lambda: any(f"it is at {behind}): `migrate` has to run" in line for line in stack.logs()[first.name]),
        30,
        "the new worker says what it waits for",
    )
    meanwhile = send(stack, "meanwhile")
    made.deliver("meanwhile", "old-0")
    assert stack.finished(meanwhile, 20)["executor_id"] == second.executor_id
    assert stack.finished(ids[0], 20)["executor_id"] == second.executor_id

    migrate(stack)
    assert version(stack) > behind
    # The older processes go on with the newer schema, and the new worker starts by itself.
    after = send(stack, "after")
    made.deliver("after", "old-1")
    stack.finished(after, 20)
    stack.finished(ids[1], 20)
    stack.workers()
    roll(stack, second)
    roll(stack, stack.api())
    newest = send(stack, "newest")
    made.deliver("newest", "old-2", "old-3")
    for each in (newest, *ids[2:]):
        assert stack.finished(each, 20)["output"] == ["label A", "deliver A"]
    assert stack.get("/stranded")["stranded"] == []
    assert {move["kind"] for move in stack.handovers(ids)} == {"handover"}
    installed = [line for line in stack.logs()["worker-2"] if "Initializing DBOS (v3.4.0)" in line]
    assert installed
