"""Prometheus rules, Grafana dashboards, runbooks: one with the other, and with what the processes report."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.dashboards import DASHBOARDS, DATASOURCE_UID, Panel, expressions, load, panels
from tests.support.sources import source_files

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "observability" / "prometheus"
GRAFANA = ROOT / "observability" / "grafana"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
RULE_TESTS = sorted((PROMETHEUS / "rules" / "tests").glob("*.yml"))
RUNBOOKS = (ROOT / "docs" / "operate" / "runbooks.md").read_text("utf-8")
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))

_METRIC = re.compile(r"(?<![\w:])holdfast_\w+")
_RECORDED = re.compile(r"\b[a-z]+:holdfast_\w+:\w+")
# Units of Grafana that the panels use; a mistyped one would be shown as text.
UNITS = {"short", "none", "s", "percentunit", "ops", "reqps", "bytes", "dtdurations", "bool_yes_no"}


def rules() -> list[dict[str, Any]]:
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text("utf-8"))["groups"]]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
RECORDED = {rule["record"]: rule for rule in rules() if "record" in rule}


def cases() -> list[dict[str, Any]]:
    files = [yaml.safe_load(path.read_text("utf-8")) for path in RULE_TESTS]
    return [case for file in files for test in file["tests"] for case in test.get("alert_rule_test", [])]


# --- Prometheus ----------------------------------------------------------------------------


def promtool(*arguments: str) -> str:
    """What promtool says; its absence is a skip that says so, and a failure where containers are required."""
    if shutil.which("promtool") is None:
        missing = "NOT TESTED: promtool is missing (Debian: apt-get install prometheus)"
        if os.environ.get("HOLDFAST_REQUIRE_DOCKER", "") not in ("", "0"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    done = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, timeout=120, cwd=PROMETHEUS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_promtool_accepts_the_configuration() -> None:
    assert "is valid prometheus config file syntax" in promtool("check", "config", "prometheus.yml")


def test_promtool_accepts_the_rules() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", *(str(path) for path in RULES))


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_rules_fire_when_they_should(path: Path) -> None:
    promtool("test", "rules", str(path))


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_every_alert_is_tested_both_ways(name: str) -> None:
    expected = [bool(case["exp_alerts"]) for case in cases() if case["alertname"] == name]
    assert True in expected, "no case in which it fires"
    assert False in expected, "no case in which it is silent"


def test_every_recorded_figure_is_tested() -> None:
    texts = "".join(path.read_text("utf-8") for path in RULE_TESTS)
    assert [name for name in RECORDED if f"expr: {name}" not in texts and f"({name}," not in texts] == []


def test_a_case_names_an_alert() -> None:
    assert {case["alertname"] for case in cases()} == set(ALERTS)


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_every_alert_says_how_bad_it_is_and_what_to_do(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert rule["annotations"]["runbook"] == f"docs/operate/runbooks.md#{name.lower()}"
    found = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", RUNBOOKS, re.MULTILINE | re.DOTALL)
    assert found, "no paragraph in docs/operate/runbooks.md"
    severity, paragraph = rule["labels"]["severity"], found[1].strip()
    assert paragraph.startswith(f"*{severity.capitalize()}.*")
    assert "\n\n" not in paragraph, "one paragraph"
    assert re.search(r"`(holdfast|docker compose|GET|POST) ", paragraph), "names no command"


def test_every_runbook_has_an_alert() -> None:
    assert re.findall(r"^## (\w+)$", RUNBOOKS, re.MULTILINE) and set(
        re.findall(r"^## (\w+)$", RUNBOOKS, re.MULTILINE)
    ) == set(ALERTS)


def test_runbooks_name_commands_that_exist() -> None:
    from holdfast.cli.main import app

    known = {command.callback.__name__ for command in app.registered_commands if command.callback}
    assert set(re.findall(r"`holdfast ([a-z]+)", RUNBOOKS)) <= known


def test_runbooks_name_settings_and_log_actions_that_exist() -> None:
    example = (ROOT / ".env.example").read_text("utf-8")
    for name in set(re.findall(r"HOLDFAST_[A-Z_]+", RUNBOOKS)):
        assert f"# {name}=" in example, name
    code = "".join(path.read_text("utf-8") for path in source_files())
    for action in set(re.findall(r"`((?:executor|takeover|sweep)\.[a-z_]+)`", RUNBOOKS)):
        assert f'"{action}"' in code, action


def test_what_is_scraped_is_what_compose_runs() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text("utf-8"))
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    services = COMPOSE["services"]
    assert jobs["api"]["static_configs"] == [
        {"targets": [f"api:{services['api']['environment']['HOLDFAST_API_PORT']}"]}
    ]
    (workers,) = jobs["worker"]["dns_sd_configs"]
    assert workers["names"] == ["worker"] and workers["type"] == "A"
    assert workers["port"] == services["worker"]["environment"]["HOLDFAST_WORKER_PORT"]
    shared = set(services["prometheus"]["networks"])
    assert shared & set(services["api"]["networks"]) and shared & set(services["worker"]["networks"])
    for name, job in jobs.items():
        interval = job.get("scrape_interval", config["global"]["scrape_interval"])
        assert name == "prometheus" or int(interval.removesuffix("s")) <= 5
    assert f"{PROMETHEUS.relative_to(ROOT)}" in services["prometheus"]["volumes"][0]


# --- metrics -------------------------------------------------------------------------------


def known_metrics() -> set[str]:
    """Every sample name that a process can report, and every label with it, from docs/operate/metrics.md."""
    from prometheus_client import REGISTRY

    import holdfast.observability.metrics

    assert holdfast.observability.metrics
    own = {metric.name: metric.type for metric in REGISTRY.collect() if metric.name.startswith("holdfast_")}
    documented = re.findall(
        r"`(holdfast_\w+)`", (ROOT / "docs" / "operate" / "metrics.md").read_text("utf-8")
    )
    names = set(documented) | {f"{name}_total" for name, kind in own.items() if kind == "counter"}
    names |= {name for name, kind in own.items() if kind != "counter"}
    return names | {f"{name}_{part}" for name in names for part in ("bucket", "sum", "count")}


def used_metrics() -> list[tuple[str, str]]:
    """(where, metric) of every metric that a rule or a panel asks for."""
    found = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]
    found += [(f"{panel.dashboard}: {panel.title}", e) for panel in all_panels() for e in expressions(panel)]
    return [(where, name) for where, expression in found for name in _METRIC.findall(expression)]


def test_every_metric_that_is_asked_for_exists() -> None:
    known = known_metrics()
    assert [(where, name) for where, name in used_metrics() if name not in known] == []


def test_every_recorded_figure_that_is_asked_for_is_recorded() -> None:
    texts = [e for panel in all_panels() for e in expressions(panel)] + [rule["expr"] for rule in rules()]
    used = {name for text in texts for name in _RECORDED.findall(text)}
    assert used <= set(RECORDED)
    assert set(RECORDED) <= used, "recorded for nobody"


# --- Grafana -------------------------------------------------------------------------------


def all_panels() -> list[Panel]:
    return [panel for path in DASHBOARDS for panel in panels(path)]


def test_the_data_source_is_the_one_that_is_provisioned() -> None:
    (source,) = yaml.safe_load(
        (GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text("utf-8")
    )["datasources"]
    assert source["uid"] == DATASOURCE_UID and source["type"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    assert source["editable"] is False and source["isDefault"] is True


def test_dashboards_are_read_from_where_they_are_mounted() -> None:
    (provider,) = yaml.safe_load(
        (GRAFANA / "provisioning" / "dashboards" / "holdfast.yml").read_text("utf-8")
    )["providers"]
    grafana = COMPOSE["services"]["grafana"]
    assert "./observability/grafana:/etc/holdfast:ro" in grafana["volumes"]
    assert provider["options"]["path"] == "/etc/holdfast/dashboards"
    assert provider["allowUiUpdates"] is False and provider["disableDeletion"] is True
    assert grafana["environment"]["GF_PATHS_PROVISIONING"] == "/etc/holdfast/provisioning"
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert GRAFANA / Path(home).relative_to("/etc/holdfast") in DASHBOARDS


def test_the_dashboards_are_the_four() -> None:
    assert [path.stem for path in DASHBOARDS] == ["api", "database", "overview", "worker"]
    identities = [(board["uid"], board["title"]) for board in map(load, DASHBOARDS)]
    assert len({uid for uid, _ in identities}) == len({title for _, title in identities}) == len(identities)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboard(path: Path) -> None:
    board = load(path)
    assert board["schemaVersion"] >= 39 and board["id"] is None and board["uid"].startswith("holdfast-")
    assert board["editable"] is False and board["refresh"] == "5s" and board["timezone"] == "browser"
    assert {"from", "to"} <= set(board["time"]) and board["tags"] == ["holdfast"]
    # Each dashboard links to its sisters.
    assert board["links"][0]["type"] == "dashboards" and board["links"][0]["tags"] == ["holdfast"]
    identities = [panel["id"] for panel in board["panels"]]
    assert len(set(identities)) == len(identities), "a panel's id is used twice"
    taken: dict[tuple[int, int], str] = {}
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert set(place) == {"h", "w", "x", "y"} and place["w"] > 0 and place["h"] > 0
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} overlaps {taken.get((x, y))}"
                taken[x, y] = panel["title"]
    for variable in board["templating"]["list"]:
        assert variable["type"] == "query" and variable["datasource"]["uid"] == DATASOURCE_UID
        asked = json.dumps([panel.get("targets") for panel in board["panels"]])
        assert f"${variable['name']}" in asked, "a variable that nothing asks for"
    declared = {variable["name"] for variable in board["templating"]["list"]}
    for panel in panels(path):
        for expression in panel.raw_expressions:
            names = set(re.findall(r"\$(\w+)", expression)) - {"__rate_interval"}
            assert names <= declared, f"{panel.title}: {names - declared}"


@pytest.mark.parametrize("panel", all_panels(), ids=lambda panel: f"{panel.dashboard}-{panel.id}")
def test_panel(panel: Panel) -> None:
    assert panel.title and panel.json["type"] in ("timeseries", "stat", "table", "bargauge", "heatmap")
    assert panel.json["datasource"] == {"type": "prometheus", "uid": DATASOURCE_UID}
    assert panel.json["description"].endswith("."), "a panel says what it shows"
    defaults = panel.json["fieldConfig"]["defaults"]
    assert defaults["unit"] in UNITS, defaults["unit"]
    references = [target["refId"] for target in panel.json["targets"]]
    assert references and len(set(references)) == len(references)
    for target in panel.json["targets"]:
        assert target["datasource"] == panel.json["datasource"]
        assert target["expr"].strip()
        # A legend is a template or a word: never the raw labels of a series.
        assert target["legendFormat"] or panel.json["type"] == "table"
        quantile = re.search(r"histogram_quantile\(([\d.]+)", target["expr"])
        if quantile:
            assert f"p{float(quantile[1]) * 100:g}" in target["legendFormat"] + panel.title
            assert " le)" in target["expr"] or "(le)" in target["expr"], "a quantile of a sum keeps le"
