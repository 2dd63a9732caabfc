"""What Holdfast cannot protect runs as without it, with one sentence that says why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from holdfast.dbos_adapter.preparing import prepare_database
from tests.support.attached import APPS, AppRunner, get
from tests.support.database import wait_until
from tests.support.stack import free_ports

_REFUSED = "Holdfast does not protect this application, which runs as without it: "


def _refused(apps: AppRunner, reason: str, **environment: str) -> None:
    """The application runs with one warning, and does not start where protection is demanded."""
    process = apps.app(**environment)
    lines = [line for line in process.output().splitlines() if _REFUSED in line]
    assert len(lines) == 1 and reason in lines[0], process.output()
    process.start("steps", "w", 1, 0)
    apps.wait_status("w")
    apps.database.rows("UPDATE dbos.workflow_status SET workflow_uuid = 'before' WHERE workflow_uuid = 'w'")
    demanded = apps.run(sys.executable, str(APPS / "plain.py"), HOLDFAST_REQUIRED="true", **environment)
    assert demanded.popen.wait(60) == 1
    assert f"NotProtected: Holdfast does not protect this application: {reason}" in demanded.output()


def test_a_database_that_nobody_prepared(apps: AppRunner) -> None:
    apps.database.rows("DROP SCHEMA ops CASCADE")
    _refused(apps, "its database is not prepared: run `holdfast migrate --database-url URL` once")


def test_a_database_of_an_older_holdfast(apps: AppRunner) -> None:
    apps.database.rows("DELETE FROM ops.migrations WHERE name = '014_registrations.sql'")
    _refused(apps, "its database lacks 014_registrations.sql: run `holdfast migrate")


def test_a_database_of_a_newer_holdfast(apps: AppRunner) -> None:
    apps.database.rows("INSERT INTO ops.migrations (name) VALUES ('999_new.sql')")
    assert "protected: executor" in apps.app(HOLDFAST_REQUIRED="true").output()


def test_a_role_without_rights(apps: AppRunner) -> None:
    server = apps.database.server
    role = f"stranger_{apps.database.name}"
    apps.database.rows(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    try:
        for kind in ("TABLES", "SEQUENCES"):
            apps.database.rows(f"GRANT ALL ON ALL {kind} IN SCHEMA dbos TO {role}")
        apps.database.rows(f"GRANT USAGE ON SCHEMA dbos TO {role}")
        url = f"postgresql://{role}:x@127.0.0.1:{server.cluster.port}/{apps.database.name}"
        process = apps.run(sys.executable, str(APPS / "plain.py"), PLAIN_DATABASE_URL=url)
        wait_until(lambda: _REFUSED in process.output() or process.popen.poll() is not None, "it says so")
        assert f"{_REFUSED}its database role lacks rights" in process.output(), process.output()
    finally:
        apps.close()
        apps.database.rows(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize("required", ["false", "true"])
def test_postgresql_that_cannot_be_reached(apps: AppRunner, required: str) -> None:
    """The launch fails as it does without Holdfast, with one sentence more."""
    url = f"postgresql://postgres:x@127.0.0.1:{free_ports(1)}/nowhere"
    process = apps.run(
        sys.executable, str(APPS / "plain.py"), PLAIN_DATABASE_URL=url, HOLDFAST_REQUIRED=required
    )
    assert process.popen.wait(60) == 1
    reason = "its database cannot be reached: connection to server at"
    if required == "true":
        assert f"NotProtected: Holdfast does not protect this application: {reason}" in process.output()
    else:
        assert process.output().count(_REFUSED) == 1 and f"{_REFUSED}{reason}" in process.output()
        assert "sqlalchemy.exc.OperationalError" in process.output()


@pytest.mark.parametrize("required", ["false", "true"])
def test_a_python_without_dbos(apps: AppRunner, tmp_path: Path, required: str) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = str(tmp_path / "bare" / "bin" / "python")
    attaches = apps.run(
        python, "-c", "import holdfast; holdfast.attach(); print('runs')", HOLDFAST_REQUIRED=required
    )
    assert attaches.popen.wait(30) == (required == "true")
    assert f"DBOS is not installed in its Python ({python}): pip install dbos" in attaches.output()
    assert ("runs" in attaches.output()) == (required == "false")
    imports = apps.run(python, "-c", "import dbos", HOLDFAST_REQUIRED=required)
    assert imports.popen.wait(30) == 1
    assert imports.output().splitlines()[-1] == "ModuleNotFoundError: No module named 'dbos'"


def test_a_launch_that_is_refused_late_leaves_no_executor(apps: AppRunner) -> None:
    apps.database.rows("ALTER TABLE ops.applications ADD CHECK (name <> 'storefront')")
    _refused(apps, "its database cannot be used: new row for relation")
    rows = apps.database.rows("SELECT DISTINCT state FROM ops.executors")
    assert [row["state"] for row in rows] == ["drained"]
    ours = "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'holdfast/%'"
    assert apps.database.rows(ours) == []


@pytest.mark.parametrize("column", ["attached_at", "dbos_version"])
def test_a_role_that_may_not_note_its_launch(apps: AppRunner, column: str) -> None:
    role = f"stranger_{apps.database.name}"
    apps.database.rows(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    try:
        prepare_database(apps.url, schema="dbos", role=role)
        apps.database.rows(f"REVOKE UPDATE ({column}) ON ops.applications FROM {role}")
        url = f"postgresql://{role}:x@127.0.0.1:{apps.database.server.cluster.port}/{apps.database.name}"
        process = apps.run(sys.executable, str(APPS / "plain.py"), PLAIN_DATABASE_URL=url)
        wait_until(lambda: _REFUSED in process.output(), "it says so")
        assert "UPDATE (attached_at, dbos_version) on ops.applications" in process.output()
        assert apps.database.rows("SELECT * FROM ops.executors") == []
    finally:
        apps.close()
        apps.database.rows(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_wrong_setting(apps: AppRunner) -> None:
    process = apps.app(HOLDFAST_LEASE_SECONDS="-1")
    assert f"{_REFUSED}HOLDFAST_LEASE_SECONDS=-1: it must be greater than 0" in process.output()


def test_a_second_launch_changes_nothing(apps: AppRunner) -> None:
    process = apps.app(PLAIN_LAUNCHES_TWICE="1")
    assert "DBOS.launch() was called again" in process.output()
    assert apps.database.one("SELECT count(*) FROM ops.executors") == 1


def test_two_applications_one_after_the_other(apps: AppRunner) -> None:
    apps.app(PLAIN_SECOND_NAME="second-shop")
    rows = apps.database.rows("SELECT application, state FROM ops.executors ORDER BY started_at")
    assert [(row["application"], row["state"]) for row in rows] == [
        ("storefront", "drained"),
        ("second-shop", "live"),
    ]


def test_two_processes_with_one_executor_id_get_two(apps: AppRunner) -> None:
    first, second = apps.app(PLAIN_EXECUTOR_ID="mine"), apps.app(PLAIN_EXECUTOR_ID="mine")
    ids = [row["executor_id"] for row in apps.database.rows("SELECT executor_id FROM ops.executors")]
    assert len(set(ids)) == 2 and all(each.startswith("mine-") for each in ids)
    first.start("steps", "w", 3, 0.5)
    wait_until(lambda: len(apps.notes()) >= 2, "two steps")
    first.kill()
    apps.wait_status("w")
    assert {note[1] for note in apps.notes()} == {first.pid, second.pid}


def test_a_forked_child_keeps_no_dead_parent_alive(apps: AppRunner) -> None:
    port = free_ports(1)
    apps.app()
    forking = apps.app(PLAIN_FORKS="1", HOLDFAST_PORT=str(port))
    wait_until(lambda: [note for note in apps.notes() if note[2] == "forked"], "it has forked")
    (child,) = [note[1] for note in apps.notes() if note[2] == "forked"]
    try:
        assert "this process was forked after DBOS.launch()" in forking.output()
        forking.start("steps", "w", 3, 0.5)
        wait_until(lambda: len(apps.notes()) >= 3, "two steps")
        forking.kill()
        apps.wait_status("w")
        (row,) = apps.database.rows("SELECT reason FROM ops.executors WHERE state = 'dead'")
        assert row["reason"] == "lock lost"
        after = apps.app(HOLDFAST_PORT=str(port))
        assert apps.executor(after.pid)["executor_id"] in get(port, "/livez")[1], "the child keeps its port"
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def test_a_python_without_holdfast_says_so(apps: AppRunner) -> None:
    (apps.folder / "dbos.py").write_text("print('another dbos')\n")
    command = (
        "import sys; sys.path.insert(0, '.'); sys.modules['holdfast.attached.attach'] = None; import dbos"
    )
    process = apps.run(sys.executable, "-c", command)
    assert process.popen.wait(30) == 0
    assert "this application runs without protection" in process.output()


def test_a_search_for_dbos_before_its_import_changes_nothing(apps: AppRunner) -> None:
    command = (
        "import importlib.util, sys; importlib.util.find_spec('dbos'); import dbos; "
        "print('holdfast.attached.attachment' in sys.modules)"
    )
    process = apps.run(sys.executable, "-c", command)
    assert process.popen.wait(30) == 0
    assert process.output().splitlines() == ["True"]


def test_a_sitecustomize_of_the_environment_still_runs(apps: AppRunner, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('mine')\n")
    command = "import sitecustomize; print(sitecustomize.__file__)"
    process = apps.run(sys.executable, "-c", command, PYTHONPATH=str(tmp_path))
    assert process.popen.wait(30) == 0
    # `holdfast run` is a Python of this environment, too.
    assert process.output().splitlines() == ["mine", "mine", str(tmp_path / "sitecustomize.py")]


@pytest.mark.parametrize("after", ["1", ""])
def test_work_of_a_version_that_is_gone_is_adopted_if_asked_for(apps: AppRunner, after: str) -> None:
    old = apps.app(PLAIN_VERSION="old")
    old.start("message", "w", "payment")
    wait_until(lambda: apps.status("w"), "it has started")
    old.stop()
    new = apps.app(PLAIN_VERSION="new", HOLDFAST_ADOPT_AFTER_SECONDS=after)
    if after:
        wait_until(lambda: apps.status("w")["application_version"] == "new", "it was adopted", seconds=20)
        wait_until(lambda: apps.status("w")["status"] == "PENDING", "it goes on")
    else:
        new.start("steps", "other", 1, 0)
        apps.wait_status("other")
        assert apps.status("w")["application_version"] == "old"
