"""``holdfast app``: applications of users on a native stack, from the role to its end."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import yaml
from typer.testing import CliRunner

from holdfast.cli import applications as commands
from holdfast.cli.main import app
from holdfast.installations.application_names import ApplicationError, check_name
from holdfast.installations.applications import add_application
from holdfast.installations.compose_application import write_compose_file
from holdfast.installations.embedded import ROOT
from holdfast.installations.native_installation import NativeTools
from tests.support.database import Server

NAME = "shop-front"
ROLE = f"holdfast_app_{NAME}"


# Other tests' databases are made from this one.
_CLEAN = f"""
UPDATE dbos.workflow_status SET status = 'SUCCESS';
DO $$
DECLARE place record;
BEGIN
    FOR place IN SELECT table_schema, table_name, column_name FROM information_schema.columns
        JOIN information_schema.tables USING (table_schema, table_name)
        WHERE table_type = 'BASE TABLE' AND (table_schema, column_name) IN (
            ('ops', 'application'), ('dbos', 'application_name'), ('dbos', 'workflow_uuid'),
            ('dbos', 'workflow_id'), ('dbos', 'destination_uuid'), ('ops', 'workflow_id'))
    LOOP
        EXECUTE format('DELETE FROM %I.%I WHERE %I LIKE %L', place.table_schema, place.table_name,
            place.column_name, CASE WHEN place.column_name LIKE 'application%' THEN '{NAME}' ELSE '%' END);
    END LOOP;
END $$;
DELETE FROM ops.applications WHERE name = '{NAME}';
DELETE FROM ops.executors;
DROP SCHEMA IF EXISTS "{NAME}" CASCADE;
"""


@pytest.fixture
def tools(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[NativeTools]:
    """A native stack's tools without its processes. What a test adds to the server is removed."""
    monkeypatch.setenv("HOLDFAST_HOME", str(server.home))
    state = {
        "postgres": {"port": server.cluster.port, "database": "holdfast"},
        "passfiles": {"migrate": str(server.secrets / "migrate" / "pgpass")},
    }
    tools = NativeTools(server.home, state)
    monkeypatch.setattr(commands, "tools_here", lambda: tools)
    yield tools
    server.psql("holdfast", _CLEAN)
    with suppress(psycopg2.errors.UndefinedObject):
        server.run(f'DROP ROLE "{ROLE}"')


def run(*words: str) -> Any:
    done = CliRunner().invoke(app, ["app", *words, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def refused(*words: str) -> str:
    done = CliRunner().invoke(app, ["app", *words])
    assert done.exit_code == 1, done.output
    return done.output


def test_added_twice_it_answers_the_same(tools: NativeTools) -> None:
    first = run("add", NAME)
    assert first["application"] == NAME
    assert stat.S_IMODE(Path(first["passfile"]).stat().st_mode) == 0o600
    psycopg2.connect(first["database_url"]).close()
    assert run("add", NAME) == first
    psycopg2.connect(first["database_url"]).close()
    without = first["database_url"].replace(first["database_url"].split(":")[2].split("@")[0], "x")
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(without)
    plain = CliRunner().invoke(app, ["app", "add", NAME])
    assert plain.stdout == f"{first['database_url']}\n", "whole, for a shell"


def test_a_new_password_replaces_the_old_one(tools: NativeTools) -> None:
    first = run("add", NAME)
    second = run("add", NAME, "--rotate")
    assert second["database_url"] != first["database_url"]
    psycopg2.connect(second["database_url"]).close()
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(first["database_url"])


def test_a_lost_password_is_said_and_not_replaced(tools: NativeTools) -> None:
    first = run("add", NAME)
    Path(first["passfile"]).unlink()
    assert "--rotate makes a new one" in " ".join(refused("add", NAME).split())
    psycopg2.connect(first["database_url"]).close()
    psycopg2.connect(run("add", NAME, "--rotate")["database_url"]).close()


_PROGRAM = """
import os
from dbos import DBOS
DBOS(config={"name": os.environ["NAME"], "system_database_url": os.environ["URL"]})
@DBOS.step()
def one():
    return 1
@DBOS.workflow()
def flow():
    return [one(), DBOS.recv("topic", timeout_seconds=20)]
DBOS.launch()
DBOS.register_queue("shop-queue")
handle = DBOS.enqueue_workflow("shop-queue", flow)
DBOS.send(handle.workflow_id, "hello", "topic")
print("result", handle.get_result())
DBOS.destroy()
"""


def test_a_plain_dbos_application_runs_with_the_url_as_it_is(tools: NativeTools) -> None:
    """DBOS's defaults, migrations at launch included: the role needs no DDL."""
    url = run("add", NAME)["database_url"]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env={**os.environ, "NAME": NAME, "URL": url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "result [1, 'hello']" in done.stdout, done.stdout + done.stderr
    (row,) = [row for row in run("list")["applications"] if row["application"] == NAME]
    assert row["unfinished_workflows"] == row["live_executors"] == 0


def test_it_is_not_removed_under_work(tools: NativeTools, server: Server) -> None:
    url = run("add", NAME)["database_url"]
    with closing(psycopg2.connect(url)) as process, process.cursor() as cursor:
        process.autocommit = True
        cursor.execute(
            "INSERT INTO ops.executors (executor_id, application, application_version, role, hostname, pid,"
            f" port, slots) VALUES ('e', '{NAME}', '1', 'app', 'h', 1, 0, 0) RETURNING lock_key"
        )
        row: Any = cursor.fetchone()
        cursor.execute("SELECT pg_advisory_lock(7031, %s)", row)
        cursor.execute(
            "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, application_name)"
            f" VALUES ('w', 'DELAYED', 'n', '{NAME}')"
        )
        said = " ".join(refused("remove", NAME).split())
        assert f"{NAME} has 1 live executors and 1 unfinished workflows" in said
        assert run("remove", NAME, "--force")["removed"] is True
        with pytest.raises(psycopg2.OperationalError):
            cursor.execute("SELECT 1")
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(url)
    with closing(server.admin("holdfast")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) AS kept FROM dbos.workflow_status")
        assert dict(cursor.fetchone())["kept"] == 1  # type: ignore[arg-type]
    assert "There is no application" in refused("remove", NAME)
    again = run("add", NAME)["database_url"]
    assert again != url
    psycopg2.connect(again).close()


def test_a_removed_one_stays_away_until_it_is_added_again(tools: NativeTools, server: Server) -> None:
    def known() -> list[str]:
        server.migrate("holdfast")
        return [row["application"] for row in run("list")["applications"] if row["kind"] == "user"]

    run("add", NAME)
    server.psql(
        "holdfast",
        "INSERT INTO dbos.application_versions (version_id, version_name, application_name)"
        f" VALUES ('v', 'v', '{NAME}')",
    )
    assert known() == [NAME]
    run("remove", NAME)
    assert known() == [], "DBOS's table of versions still names it"
    run("add", NAME)
    assert known() == [NAME]


@pytest.mark.parametrize("words", [("add", NAME), ("list",), ("remove", NAME)])
def test_a_stack_of_an_older_holdfast(tools: NativeTools, server: Server, words: tuple[str, ...]) -> None:
    server.psql("holdfast", "ALTER TABLE ops.applications RENAME TO hidden")
    try:
        said = " ".join(refused(*words).split())
    finally:
        server.psql("holdfast", "ALTER TABLE ops.hidden RENAME TO applications")
    assert "started by an older Holdfast: start it again" in said
    assert "relation" not in said


@pytest.mark.parametrize("name", ["Shop", "ab", "1shop", "a" * 51, "shop front", "shop'", "", "-shop"])
def test_a_name_that_dbos_or_postgres_would_refuse(name: str) -> None:
    with pytest.raises(ApplicationError, match="cannot be an application's name"):
        check_name(name)


@pytest.mark.parametrize("name", ["holdfast-api", "ops", "dbos", "public", "pg_shop"])
def test_a_name_that_is_taken(name: str, tools: NativeTools) -> None:
    assert "reserved" in refused("add", name)
    assert "reserved" in refused("remove", name)


def test_the_compose_file_includes_the_stack(tools: NativeTools, tmp_path: Path) -> None:
    added = add_application(tools, NAME)
    path = tmp_path / "compose.yaml"
    said = write_compose_file(path, added, command="uvicorn main:app --host 0.0.0.0")
    file = yaml.safe_load(path.read_text("utf-8"))
    assert (tmp_path / file["include"][0]).resolve() == ROOT / "compose.yaml"
    service = file["services"][NAME]
    assert (tmp_path / service["extends"]["file"]).resolve() == ROOT / "deploy" / "application.yaml"
    assert service["command"][:4] == ["holdfast", "run", "--", "uvicorn"]
    assert {"container_name", "ports"}.isdisjoint(service), "--scale starts several"
    secret = Path(said["env_file"])
    assert (tmp_path / service["env_file"][0]).resolve() == secret.resolve()
    assert secret.read_text("ascii") == f"DBOS_SYSTEM_DATABASE_URL={added.database_url}\n"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert added.database_url not in path.read_text("utf-8")
    assert write_compose_file(path, added, command="uvicorn main:app --host 0.0.0.0") == said
    path.write_text("services: {}\n")
    with pytest.raises(ApplicationError, match="not changed"):
        write_compose_file(path, added, command="python main.py")
    assert path.read_text("utf-8") == "services: {}\n"


def test_the_environment_of_the_compose_file_follows_a_new_password(
    tools: NativeTools, tmp_path: Path
) -> None:
    without = add_application(tools, NAME)
    without.env_file.unlink(missing_ok=True)
    assert add_application(tools, NAME) == without
    assert not without.env_file.exists(), "only --compose writes it"
    said = write_compose_file(tmp_path / "c.yaml", without, command="python main.py")
    url = run("add", NAME, "--rotate")["database_url"]
    assert url != without.database_url
    assert Path(said["env_file"]).read_text("ascii") == f"DBOS_SYSTEM_DATABASE_URL={url}\n"
    assert stat.S_IMODE(Path(said["env_file"]).stat().st_mode) == 0o600
