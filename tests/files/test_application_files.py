"""Compose files of users' applications: deploy/application.yaml, and the storefront's."""

from __future__ import annotations

import re
from typing import Any

import yaml
from dotenv import dotenv_values

from holdfast.installations.application_names import names_in, role_of
from holdfast.installations.embedded import ROOT

STACK: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
TEMPLATE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "application.yaml").read_text("utf-8"))
APPLICATION: dict[str, Any] = TEMPLATE["services"]["application"]
FOLDER = ROOT / "examples" / "storefront"
SHOP: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text("utf-8"))
SERVICE: dict[str, Any] = SHOP["services"]["storefront"]


def test_the_settings_that_are_passed_on_are_the_stacks() -> None:
    passed = {name for name, value in APPLICATION["environment"].items() if value is None}
    assert passed <= set(STACK["x-settings"])
    assert APPLICATION["stop_grace_period"] == STACK["services"]["worker"]["stop_grace_period"]


def test_an_application_starts_after_the_stack_and_on_its_networks() -> None:
    assert set(APPLICATION["networks"]) <= set(STACK["networks"])
    assert APPLICATION["depends_on"] == STACK["services"]["worker"]["depends_on"]
    assert {"container_name", "ports"}.isdisjoint(APPLICATION), "--scale starts several"


def test_prometheus_finds_every_application() -> None:
    prometheus = yaml.safe_load((ROOT / "observability/prometheus/prometheus.yml").read_text("utf-8"))
    (job,) = [job for job in prometheus["scrape_configs"] if job["job_name"] == "application"]
    assert job["dns_sd_configs"][0]["names"] == APPLICATION["networks"]["metrics"]["aliases"]
    assert job["dns_sd_configs"][0]["port"] == APPLICATION["environment"]["HOLDFAST_PORT"]


def test_the_storefront_includes_the_stack_and_joins_its_project() -> None:
    assert [(FOLDER / path).resolve() for path in SHOP["include"]] == [ROOT / "compose.yaml"]
    assert SHOP["name"] == STACK["name"], "`holdfast` finds the project by its name"
    base = SERVICE["extends"]
    assert (FOLDER / base["file"]).resolve() == ROOT / "deploy" / "application.yaml"
    assert base["service"] in TEMPLATE["services"]
    assert SERVICE["scale"] == 2, "a dead process needs a peer"


def test_the_storefronts_wheel_is_the_stacks() -> None:
    assert SERVICE["build"] == {"context": ".", "additional_contexts": {"packages": "service:api"}}
    assert "build" in STACK["services"]["api"]
    assert "COPY --from=wheel /wheels /wheels" in (ROOT / "Dockerfile").read_text("utf-8")
    assert "from=packages" in (FOLDER / "Dockerfile").read_text("utf-8")
    assert SERVICE["command"][:3] == ["holdfast", "run", "--"]
    asked = re.search(r"^CMD \[(.*)\]", (FOLDER / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert asked and [word.strip(' "') for word in asked[1].split(",")] == SERVICE["command"][3:]


def test_the_storefront_logs_in_with_what_the_stack_prepares_for_it() -> None:
    (name,) = names_in(str(dotenv_values(FOLDER / ".env")["HOLDFAST_APPLICATIONS"]))
    assert f"//{role_of(name)}@postgres/" in SERVICE["environment"]["DBOS_SYSTEM_DATABASE_URL"]
    (mount,) = SERVICE["volumes"]
    # Its own directory alone: the file of another application does not show.
    assert (mount["source"], mount["volume"]["subpath"], mount["read_only"]) == ("secrets-apps", name, True)
    assert SERVICE["environment"]["PGPASSFILE"] == f"{mount['target']}/pgpass"
    # libpq reads the file only if no other user can; it belongs to the one-shot that wrote it.
    owner = re.search(r"^USER (\S+)$", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert owner and SERVICE["user"] == owner[1]


def test_the_roles_script_makes_them_when_the_setting_or_a_file_changes() -> None:
    services = STACK["services"]
    for one in ("secrets", "postgres"):
        assert services[one]["environment"]["HOLDFAST_APPLICATIONS"] is None, "nothing, unless it is set"
    script = (ROOT / "postgres" / "roles.sh").read_text("utf-8")
    assert '${applications:+"$here/application.sql"}' in script
    assert "holdfast_app_$name.scram" in script
