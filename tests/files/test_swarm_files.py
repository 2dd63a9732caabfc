"""deploy/swarm/stack.yaml says what compose.yaml says, where Swarm knows the word; `make swarm` runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from holdfast.installations.secrets import make_secrets
from holdfast.postgres import budget
from services.settings import ShowcaseSettings
from tests.files.test_deployment_files import SERVICES, interpolated

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "deploy" / "swarm" / "stack.yaml"
STACK: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))
OURS: dict[str, dict[str, Any]] = STACK["services"]
ROLES = ["api", "worker", "migrate"]
# Swarm publishes on all interfaces.
STRICTER = {"HOLDFAST_REQUIRE_TOKEN": "true", "HOLDFAST_PUBLISH_ADDRESS": "0.0.0.0"}
# The S3 server is Compose's own there (profile s3), on a network of its own; here it is a user's.
ELSEWHERE = {"HOLDFAST_S3_ENDPOINT": None, "HOLDFAST_S3_CREDENTIALS_FILE": None}


def in_bytes(text: str) -> int:
    number, unit = interpolated(text)[:-1], interpolated(text)[-1]
    return int(number) << {"m": 20, "g": 30}[unit]


def test_the_same_services_but_for_what_only_one_machine_needs() -> None:
    assert set(OURS) == {"postgres", *ROLES}


@pytest.mark.parametrize("name", sorted(OURS))
def test_image_command_and_variables_are_those_of_compose(name: str) -> None:
    ours, theirs = OURS[name], SERVICES[name]
    for key in ("image", "command", "stop_grace_period", "read_only", "cap_drop", "init", "logging"):
        assert ours[key] == theirs[key], key
    for key in ("stop_signal", "ulimits", "entrypoint", "user", "dns"):
        assert ours.get(key) == theirs.get(key), key
    # There a superuser runs postgres/application.sql.
    told = {key: value for key, value in theirs["environment"].items() if key != "HOLDFAST_APPLICATIONS"}
    others = STRICTER | ELSEWHERE
    assert ours["environment"] == told | {key: others[key] for key in others.keys() & told.keys()}
    assert ours.get("networks") == [network for network in theirs["networks"] if network != "objects"]


@pytest.mark.parametrize("name", sorted(OURS))
def test_limits_and_health_checks_are_those_of_compose(name: str) -> None:
    ours, theirs = OURS[name], SERVICES[name]
    # Swarm ends unhealthy tasks: so it asks for what holds while PostgreSQL is away, too.
    asks = {"test": [*theirs["healthcheck"]["test"], "/livez"]} if name in ("api", "worker") else {}
    assert ours["healthcheck"] == theirs["healthcheck"] | asks
    limits = ours["deploy"]["resources"]["limits"]
    assert in_bytes(limits["memory"]) == in_bytes(theirs["mem_limit"])
    assert limits["pids"] == theirs["pids_limit"]
    # A limit decides a worker's slots. PostgreSQL and the job take what their node has to spare.
    assert ("cpus" in limits) == (name in ("api", "worker"))
    if "cpus" in limits:
        assert f"{interpolated(limits['cpus'])}00000" == interpolated(str(theirs["cpu_quota"]))


def test_everything_mounted_is_in_memory_but_the_data() -> None:
    for service in OURS.values():
        for volume in service["volumes"]:
            assert volume == "pgdata:/var/lib/postgresql/data" or volume["tmpfs"]["size"] > 0, volume


def test_only_the_database_is_bound_to_a_node() -> None:
    """No executor assumes whose neighbour it is: any of them may run anywhere."""
    bound = {name for name, service in OURS.items() if "placement" in service["deploy"]}
    assert bound == {"postgres"}
    networks = STACK["networks"]
    assert networks["database"]["internal"] and networks["metrics"]["internal"]
    assert "encrypted" in networks["database"]["driver_opts"]


def test_updates_replace_one_after_the_other_and_go_back_when_it_fails() -> None:
    for name in ("api", "worker"):
        update = OURS[name]["deploy"]["update_config"]
        assert update["parallelism"] == 1 and update["failure_action"] == "rollback"
        assert interpolated(update["order"]) == "start-first"
        assert OURS[name]["deploy"]["restart_policy"]["condition"] == "any"
    # Never two servers on the same data.
    assert OURS["postgres"]["deploy"]["update_config"]["order"] == "stop-first"
    assert OURS["postgres"]["deploy"]["replicas"] == 1


@pytest.mark.parametrize("name", ["api", "worker"])
def test_with_its_successor_it_fits_into_the_connections(name: str) -> None:
    replicas = int(interpolated(str(OURS[name]["deploy"]["replicas"])))
    roles = (ROOT / "postgres" / "roles.sql").read_text("utf-8")
    limit = re.search(rf"holdfast_{name} LOGIN CONNECTION LIMIT (\d+)", roles)
    assert limit
    assert (replicas + 1) * budget.max_connections(ShowcaseSettings(), name) <= int(limit[1])


def test_every_secret_is_made_by_the_script_and_lies_where_it_is_looked_for(tmp_path: Path) -> None:
    made = {str(p.relative_to(tmp_path)).replace("/", "-") for p in make_secrets(tmp_path)}
    for secret in STACK["secrets"].values():
        assert secret["external"] is True
        prefix, _, name = secret["name"].partition("}-")
        assert prefix == "${HOLDFAST_SECRETS:-holdfast" and name in made, name
    script = (FILE.parent / "secrets.sh").read_text("utf-8")
    assert "prefix=${HOLDFAST_SECRETS:-holdfast}" in script
    places = {
        name: {secret["target"]: secret for secret in service["secrets"]} for name, service in OURS.items()
    }
    for name in ROLES:
        assert "/run/holdfast/pgpass" in places[name]
        for secret in places[name].values():
            assert (secret["uid"], secret["gid"], secret["mode"]) == ("10001", "10001", 0o400)
            assert STACK["secrets"][secret["source"]]["name"].partition("}-")[2].startswith(f"{name}-")
    for key in ("HOLDFAST_ADMIN_TOKEN_FILE", "HOLDFAST_CREDENTIAL_FILE"):
        assert OURS["api"]["environment"][key] in places["api"]
    verifiers = {place for place in places["postgres"] if place.endswith(".scram")}
    wanted = re.findall(r"/(holdfast_\w+\.scram)", (ROOT / "postgres" / "roles.sql").read_text("utf-8"))
    assert verifiers == {f"/run/secrets/holdfast/{name}" for name in wanted}


_DOCKER = """#!/bin/sh
case "$1 $2" in
"secret ls") cat "$MADE" ;;
"secret create") echo "$3" >>"$MADE" ;;
"run --rm")
    cd "$ROOT" && "$PYTHON" -m holdfast.installations.secrets "$MADE.d" >&2 && tar -C "$MADE.d" -c . ;;
*) exit 9 ;;
esac
"""


def test_secrets_are_made_all_or_the_script_says_what_is_missing(tmp_path: Path) -> None:
    """With an engine that only remembers names."""
    (tmp_path / "docker").write_text(_DOCKER)
    (tmp_path / "docker").chmod(0o755)
    made = tmp_path / "made"
    # Neither another stack's nor one of the user's own counts.
    made.write_text("staging-holdfast-api-pgpass\nholdfast-s3\n")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "MADE": str(made), "ROOT": str(ROOT), "PYTHON": sys.executable}

    def run() -> tuple[int, str]:
        done = subprocess.run(
            ["sh", str(FILE.parent / "secrets.sh")], env=environment, capture_output=True, text=True
        )
        return done.returncode, done.stderr

    assert run()[0] == 0
    names = {interpolated(secret["name"]) for secret in STACK["secrets"].values()}
    known = made.read_text().splitlines()
    assert names <= set(known)
    code, told = run()
    assert code == 0 and "nothing is made anew" in told and made.read_text().splitlines() == known

    # The last two were not made any more.
    made.write_text("".join(f"{name}\n" for name in known[:-2]))
    code, told = run()
    gone = names & set(known[-2:])
    assert code == 1 and gone and f"missing: {' '.join(gone)}\n" in told
    assert {*told.partition("docker secret rm ")[2].split()} == names - gone


def test_postgres_gets_the_files_that_compose_mounts() -> None:
    mounted = {config["target"]: config["source"] for config in OURS["postgres"]["configs"]}
    for source in STACK["configs"].values():
        assert (FILE.parent / source["file"]).resolve().is_file()
        assert source["name"].endswith("-${HOLDFAST_CONFIGS:-1}"), "Swarm never changes a config"
    for target, source in mounted.items():
        assert Path(STACK["configs"][source]["file"]).name == Path(target).name
    started_with = {
        "/etc/holdfast/start.sh",
        "/etc/holdfast/roles.sh",
        "/etc/holdfast/roles.sql",
        "/etc/holdfast/postgresql.conf",
        "/etc/holdfast/pg_hba.conf",
        "/etc/holdfast/pg_ident.conf",
        "/docker-entrypoint-initdb.d/roles.sh",
    }
    assert set(mounted) == started_with


@pytest.mark.container
def test_dockers_own_reader_accepts_it() -> None:
    command = ["docker", "stack", "config", "--compose-file", str(FILE)]
    done = subprocess.run(
        command, env={**os.environ, "HOLDFAST_WORKERS": "3"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    read = yaml.safe_load(done.stdout)["services"]
    assert read["worker"]["deploy"]["replicas"] == 3
    # What it does not know it leaves out, and says so.
    assert "gnoring" not in done.stderr
