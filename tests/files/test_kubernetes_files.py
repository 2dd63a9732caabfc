"""deploy/kubernetes against Kubernetes' own schemas, itself, and compose.yaml. Nothing of it runs here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from holdfast.installations.secrets import make_secrets
from holdfast.postgres import budget
from services.settings import ShowcaseSettings
from tests.files.test_deployment_files import SERVICES, interpolated, variable
from tests.support import names

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / "deploy" / "kubernetes"
VERSIONS = ["1.29", kubernetes_validate.latest_version()]

Document = dict[str, Any]

KUSTOMIZATION: Document = yaml.safe_load((PLACE / "kustomization.yaml").read_text("utf-8"))
FILES = [*KUSTOMIZATION["resources"], "scaling.yaml"]


def documents(files: list[str] = FILES) -> list[Document]:
    return [one for name in files for one in yaml.safe_load_all((PLACE / name).read_text("utf-8"))]


def named(kind: str, name: str) -> Document:
    return next(d for d in documents() if d["kind"] == kind and d["metadata"]["name"] == name)


def pod(role: str) -> Document:
    """The pod template of a role."""
    kind = "Job" if role == "migrate" else "Deployment"
    return named(kind, f"holdfast-{role}")["spec"]["template"]


def main(role: str) -> Document:
    """Its one container."""
    (container,) = pod(role)["spec"]["containers"]
    return container


def env_file(name: str) -> dict[str, str]:
    lines = (PLACE / name).read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


SETTINGS, DATABASE = env_file("settings.env"), env_file("database.env")
ROLES = ["api", "worker", "migrate"]


def environment(role: str) -> dict[str, str]:
    """All that a container's process is told."""
    told = {}
    for source in main(role)["envFrom"]:
        told |= {"holdfast-settings": SETTINGS, "holdfast-database": DATABASE}[source["configMapRef"]["name"]]
    return told | {one["name"]: one["value"] for one in main(role)["env"]}


# --- against the schemas ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_every_document_is_valid(version: str) -> None:
    found = documents()
    assert len(found) >= 12
    for document in found:
        kubernetes_validate.validate(document, version, strict=True)


def test_the_validation_sees_what_is_wrong() -> None:
    """A misspelt field and a number as text: else the test above would say nothing."""
    for change in ({"terminationGracePeriodSecond": 30}, {"terminationGracePeriodSeconds": "30"}):
        wrong = named("Deployment", "holdfast-worker")
        wrong["spec"]["template"]["spec"] |= change
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_kustomize_builds_it_and_what_it_builds_is_valid(tmp_path: Path) -> None:
    """With the secrets that the command makes; names that are referred to get the same hash."""
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl, so no kustomize")
    whole = shutil.copytree(PLACE, tmp_path / "kubernetes")
    make_secrets(whole / "secrets")
    done = subprocess.run(["kubectl", "kustomize", str(whole)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = [document for document in yaml.safe_load_all(done.stdout) if document]
    generators = len(KUSTOMIZATION["configMapGenerator"]) + len(KUSTOMIZATION["secretGenerator"])
    assert len(built) == len(documents(KUSTOMIZATION["resources"])) + generators
    made = {document["metadata"]["name"] for document in built if document["kind"] in ("Secret", "ConfigMap")}
    for document in built:
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)
        text = json.dumps(document)
        referred = re.findall(r'"secretName": "([\w-]+)"|"configMapRef": {"name": "([\w-]+)"}', text)
        assert {name for pair in referred for name in pair if name} <= made
        assert '"image": "holdfast"' not in text


# --- against itself -----------------------------------------------------------------------------------


def test_everything_that_kustomize_reads_is_there(tmp_path: Path) -> None:
    made = {str(path.relative_to(tmp_path)) for path in make_secrets(tmp_path / "secrets")}
    for generator in KUSTOMIZATION["secretGenerator"]:
        assert set(generator["files"]) <= made, generator["name"]
    for generator in KUSTOMIZATION["configMapGenerator"]:
        assert all((PLACE / name).is_file() for name in generator["envs"])
    listed = {*KUSTOMIZATION["resources"], "kustomization.yaml", "scaling.yaml"}
    assert {path.name for path in PLACE.glob("*.yaml")} == listed, "a file that nobody applies"
    assert "deploy/kubernetes/secrets/" in (ROOT / ".gitignore").read_text("utf-8").split()


def test_every_name_that_is_referred_to_exists() -> None:
    secrets = {one["name"]: one["files"] for one in KUSTOMIZATION["secretGenerator"]}
    maps = {one["name"] for one in KUSTOMIZATION["configMapGenerator"]}
    for role in ROLES:
        spec = pod(role)["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert volumes["secrets"]["secret"]["secretName"] == f"holdfast-{role}" in secrets
        mounted: set[str] = set()
        for container in [*spec["initContainers"], *spec["containers"]]:
            mounted |= {mount["name"] for mount in container["volumeMounts"]}
            for source in container.get("envFrom", []):
                assert source["configMapRef"]["name"] in maps
        assert mounted == set(volumes)
    assert KUSTOMIZATION["images"][0]["name"] == "holdfast"
    target = named("HorizontalPodAutoscaler", "holdfast-worker")["spec"]["scaleTargetRef"]
    assert named(target["kind"], target["name"])["apiVersion"] == target["apiVersion"]


def selectors() -> Iterator[tuple[str, dict[str, str]]]:
    """Everything that finds pods by their labels."""
    for document in documents():
        spec, name = document.get("spec", {}), f"{document['kind']} {document['metadata']['name']}"
        if document["kind"] == "Service":
            yield name, spec["selector"]
        elif document["kind"] == "NetworkPolicy":
            yield name, spec["podSelector"]["matchLabels"]
        elif "selector" in spec:
            yield name, spec["selector"]["matchLabels"]


def test_every_selector_finds_pods() -> None:
    labels = {role: pod(role)["metadata"]["labels"] for role in ROLES}
    found = dict(selectors())
    assert len(found) == 9
    for name, selector in found.items():
        chosen = {role for role, has in labels.items() if selector.items() <= has.items()}
        role = name.rpartition("-")[2]
        assert chosen == ({role} if role in ROLES else set(ROLES)), name


def test_ports_by_name_lead_to_what_listens() -> None:
    for role, name, port in (("api", "http", 8000), ("worker", "metrics", 8001)):
        assert main(role)["ports"] == [{"name": name, "containerPort": port}]
        assert environment(role)[f"HOLDFAST_{role.upper()}_PORT"] == str(port)
        (published,) = named("Service", f"holdfast-{role}")["spec"]["ports"]
        assert (published["targetPort"], published["port"]) == (name, port)
        assert named("NetworkPolicy", f"holdfast-{role}")["spec"]["ingress"] == [
            {"ports": [{"protocol": "TCP", "port": name}]}
        ]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert main(role)[probe]["httpGet"]["port"] == name
    egress = named("NetworkPolicy", "holdfast")["spec"]["egress"]
    assert {"protocol": "TCP", "port": int(DATABASE["HOLDFAST_DATABASE_PORT"])} in egress[0]["ports"]


# --- against compose.yaml and the settings ------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_commands_limits_and_variables_are_those_of_compose(role: str) -> None:
    ours, theirs = main(role), SERVICES[role]
    assert ours["command"] == theirs["command"]
    limits = ours["resources"]["limits"]
    assert limits["memory"] == interpolated(theirs["mem_limit"]).replace("m", "Mi")
    assert int(limits["cpu"]) == int(interpolated(str(theirs["cpu_quota"]))) // theirs["cpu_period"]
    assert ours["resources"]["requests"].keys() == limits.keys()
    fixed = {name for name, value in theirs["environment"].items() if value is not None}
    # There the S3 server is Compose's own (profile s3), here it is a user's.
    fixed -= {"HOLDFAST_S3_ENDPOINT", "HOLDFAST_S3_CREDENTIALS_FILE"}
    told = environment(role)
    assert fixed <= set(told), "what compose.yaml fixes is said here, too"
    database = {f"HOLDFAST_DATABASE_{part}" for part in ("HOST", "PORT", "NAME", "USER", "PASSFILE")}
    known = {variable(name) for name in ShowcaseSettings.model_fields} | database
    assert {name for name in told if not name.startswith("PG")} <= known
    assert told["HOLDFAST_DATABASE_USER"] == theirs["environment"]["HOLDFAST_DATABASE_USER"]


@pytest.mark.parametrize("role", ["api", "worker"])
def test_processes_would_start_with_it(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(role).items():
        monkeypatch.setenv(name, value)
    settings = ShowcaseSettings()
    assert settings.refusal is None or role == "worker"
    assert settings.api_port == 8000 and settings.worker_port == 8001
    called = {"holdfast-api", f"holdfast-api.{KUSTOMIZATION['namespace']}.svc"}
    assert called <= settings.host_names


@pytest.mark.parametrize("role", ["api", "worker"])
def test_the_grace_is_what_the_processes_believe(role: str) -> None:
    before = main(role).get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
    grace = pod(role)["spec"]["terminationGracePeriodSeconds"]
    assert grace == float(SETTINGS["HOLDFAST_STOP_GRACE_SECONDS"]) + float(before[1])
    assert f"{SETTINGS['HOLDFAST_STOP_GRACE_SECONDS']}s" == interpolated(SERVICES[role]["stop_grace_period"])


@pytest.mark.parametrize("role", ["api", "worker"])
def test_a_database_that_is_away_restarts_nobody(role: str) -> None:
    """/livez answers 200 then, /readyz does not; and a start may wait for it as long as it means to."""
    container = main(role)
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    start = container["startupProbe"]
    waits = ShowcaseSettings.model_fields["database_wait_seconds"].default
    assert start["periodSeconds"] * start["failureThreshold"] > waits


@pytest.mark.parametrize("role", ROLES)
def test_pods_are_locked_down(role: str) -> None:
    spec = pod(role)["spec"]
    assert spec["automountServiceAccountToken"] is False
    # A Service named holdfast-api would set HOLDFAST_API_PORT to an address.
    assert spec["enableServiceLinks"] is False
    # As process 1 of a namespace nobody can kill itself, and nobody reaps.
    assert spec["shareProcessNamespace"] is True
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert user
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": int(user[1]),
        "runAsGroup": int(user[2]),
        "fsGroup": int(user[2]),
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    for container in [*spec["initContainers"], *spec["containers"]]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["image"] == "holdfast"
    for volume in spec["volumes"]:
        assert "secret" in volume or volume["emptyDir"]["sizeLimit"], volume
    assert "hostPath" not in str(spec) and "hostNetwork" not in spec and "hostPID" not in spec


@pytest.mark.parametrize("role", ROLES)
def test_libpq_gets_a_password_file_that_it_reads(role: str) -> None:
    """It ignores one that its group may read, which with fsGroup every file of a Secret is."""
    (copy,) = pod(role)["spec"]["initContainers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in copy["volumeMounts"]}
    passfile = re.search(r"HOLDFAST_DATABASE_PASSFILE=(\S+)", (ROOT / "Dockerfile").read_text("utf-8"))
    assert passfile
    assert copy["command"] == ["install", "-m", "0600", f"{mounts['secrets']}/pgpass", passfile[1]]
    assert mounts["passfile"] == str(Path(passfile[1]).parent)
    assert {"name": "passfile", "mountPath": mounts["passfile"], "readOnly": True} in main(role)[
        "volumeMounts"
    ]


def test_credential_and_token_are_where_the_api_looks() -> None:
    files = next(g["files"] for g in KUSTOMIZATION["secretGenerator"] if g["name"] == "holdfast-api")
    mounts = {mount["name"]: mount["mountPath"] for mount in main("api")["volumeMounts"]}
    told = environment("api")
    for name in ("HOLDFAST_ADMIN_TOKEN_FILE", "HOLDFAST_CREDENTIAL_FILE"):
        place = Path(told[name])
        assert str(place.parent) == mounts["secrets"]
        assert f"secrets/api/{place.name}" in files


# --- against PostgreSQL's limits ----------------------------------------------------------------------


@pytest.mark.parametrize("role", ["api", "worker"])
def test_the_most_pods_at_once_fit_into_the_connections(role: str) -> None:
    deployment = named("Deployment", f"holdfast-{role}")["spec"]
    most = deployment["replicas"]
    if role == "worker":
        most = named("HorizontalPodAutoscaler", "holdfast-worker")["spec"]["maxReplicas"]
    most += deployment["strategy"]["rollingUpdate"]["maxSurge"]
    roles = (ROOT / "postgres" / "roles.sql").read_text("utf-8")
    limit = re.search(rf"holdfast_{role} LOGIN CONNECTION LIMIT (\d+)", roles)
    assert limit
    assert most * budget.max_connections(ShowcaseSettings(), role) <= int(limit[1])


def test_what_it_scales_on_is_a_metric_of_ours() -> None:
    (metric,) = named("HorizontalPodAutoscaler", "holdfast-worker")["spec"]["metrics"]
    told = metric["external"]["metric"]
    table = (ROOT / "docs" / "operate" / "metrics.md").read_text("utf-8")
    assert f"| `{told['name']}` | gauge | `queue_name` |" in table
    assert told["selector"]["matchLabels"] == {"queue_name": names.FIBONACCI_QUEUE}


def test_disruption_leaves_a_peer_and_blocks_no_node() -> None:
    for role in ("api", "worker"):
        assert named("PodDisruptionBudget", f"holdfast-{role}")["spec"]["maxUnavailable"] == 1
    assert named("Deployment", "holdfast-worker")["spec"]["replicas"] >= 2
