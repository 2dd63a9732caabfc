"""One settings object: what it takes from where, and which values contradict each other."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg.conninfo
import psycopg2.extensions
import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from holdfast.cpu_quota import available_cpus
from holdfast.dbos_adapter.schema import sqlalchemy_url
from holdfast.installations.embedded import ROOT
from holdfast.installations.ports import free_port
from holdfast.installations.supervisor import Supervisor
from holdfast.settings import get_settings
from services.settings import ShowcaseSettings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("HOLDFAST_"):
            monkeypatch.delenv(name)


def test_defaults_fit_together() -> None:
    settings = ShowcaseSettings()
    assert settings.lateness_seconds >= 1, "a busy machine's heartbeats and polls"
    assert settings.drain_seconds + 5 <= settings.stop_grace_seconds
    assert settings.second_look_seconds >= 0.15


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"heartbeat_seconds": 3, "lease_seconds": 5}, "HOLDFAST_LEASE_SECONDS"),
        ({"heartbeat_seconds": 5, "lease_seconds": 5}, "HOLDFAST_HEARTBEAT_SECONDS"),
        ({"drain_seconds": 26, "stop_grace_seconds": 30}, "HOLDFAST_STOP_GRACE_SECONDS"),
        ({"drain_seconds": 60}, "HOLDFAST_DRAIN_SECONDS"),
        ({"sweep_seconds": 5, "lease_seconds": 5}, "HOLDFAST_SWEEP_SECONDS"),
        ({"heartbeat_seconds": 2.5, "lease_seconds": 5}, "at least 5.5: "),
        ({"sweep_seconds": 2.5, "lease_seconds": 5}, "at least 5.2: "),
        ({"second_look_seconds": 3, "lease_seconds": 5}, "HOLDFAST_SECOND_LOOK_SECONDS"),
        ({"second_look_seconds": 0.1}, "second_look_seconds"),
        ({"heartbeat_seconds": 0}, "heartbeat_seconds"),
        ({"lease_seconds": -1}, "lease_seconds"),
        ({"crash_limit": 1}, "crash_limit"),
        ({"database_pool_size": 1}, "database_pool_size"),
        ({"log_level": "LOUD"}, "log_level"),
        ({"application_version": "has space"}, "application_version"),
        ({"api_port": 70000}, "api_port"),
        ({"retention_seconds": 10_799}, "HOLDFAST_RETENTION_SECONDS"),
        ({"retention_seconds": -1}, "retention_seconds"),
        ({"retention_parked_seconds": 10_800}, "HOLDFAST_RETENTION_PARKED_SECONDS"),
        ({"otlp_endpoint": "collector:4318"}, "otlp_endpoint"),
        ({"otlp_endpoint": "http://user:secret@collector:4318"}, "otlp_endpoint"),
    ],
)
def test_contradictions_are_refused_by_name(values: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        ShowcaseSettings(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"heartbeat_seconds": 2.25, "lease_seconds": 5},
        {"drain_seconds": 25, "stop_grace_seconds": 30},
        {"drain_seconds": 0, "stop_grace_seconds": 5},
        {"crash_limit": 2},
        {"retention_seconds": 0, "retention_parked_seconds": 0},
        {"retention_seconds": 0, "retention_parked_seconds": 10_800},
        {"retention_seconds": 10_800, "retention_parked_seconds": 10_800},
        {"otlp_endpoint": ""},
        {"otlp_endpoint": "http://collector:4318"},
        {"otlp_endpoint": "https://collector.example/otlp/"},
    ],
)
def test_the_limits_themselves_are_allowed(values: dict[str, object]) -> None:
    ShowcaseSettings(**values)


def test_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_LEASE_SECONDS", "7.5")
    monkeypatch.setenv("HOLDFAST_CHAOS", "true")
    settings = ShowcaseSettings()
    assert (settings.lease_seconds, settings.chaos) == (7.5, True)


@pytest.mark.parametrize("name", ShowcaseSettings.model_fields)
def test_an_empty_variable_is_the_default(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """.env.example has lines without a value."""
    monkeypatch.setenv(f"HOLDFAST_{name.upper()}", "")
    assert ShowcaseSettings() == ShowcaseSettings.model_construct()


def test_the_native_api_gets_the_files_that_are_made_where_none_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOLDFAST_CREDENTIAL_FILE", "")
    monkeypatch.setenv("HOLDFAST_ADMIN_TOKEN_FILE", "")
    get_settings.cache_clear()
    try:
        told = Supervisor(tmp_path, 1, free_port()).api.environment
    finally:
        get_settings.cache_clear()
    made = tmp_path / "secrets" / "api"
    assert told["HOLDFAST_CREDENTIAL_FILE"] == str(made / "upstream_credential")
    assert told["HOLDFAST_ADMIN_TOKEN_FILE"] == str(made / "admin_token")


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        ShowcaseSettings().lease_seconds = 1  # type: ignore[misc]


def test_the_url_comes_from_the_file_shared_with_dbos(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"USER": "u", "HOST": "h", "PORT": "1", "NAME": "n", "PASSFILE": "/p"}.items():
        monkeypatch.setenv(f"HOLDFAST_DATABASE_{name}", value)
    settings = ShowcaseSettings(config_file=ROOT / "dbos-config.yaml")
    assert settings.database_url == "postgresql://u@h:1/n?passfile=/p&target_session_attrs=read-write"
    assert settings.application_names == ["holdfast-api", "holdfast-worker"]
    assert (settings.version_name("api"), settings.version_name("worker")) == ("api-2", "worker-2")


@pytest.mark.parametrize(
    ("host", "hosts"),
    [("a,b", ["a:1", "b:1"]), ("a:5,b", ["a:5", "b:1"])],
)
def test_several_hosts_reach_every_driver(
    monkeypatch: pytest.MonkeyPatch, host: str, hosts: list[str]
) -> None:
    for name, value in {"USER": "u", "HOST": host, "PORT": "1", "NAME": "n", "PASSFILE": "/p"}.items():
        monkeypatch.setenv(f"HOLDFAST_DATABASE_{name}", value)
    url = ShowcaseSettings(config_file=ROOT / "dbos-config.yaml").database_url
    assert url == f"postgresql://u@{','.join(hosts)}/n?passfile=/p&target_session_attrs=read-write"
    names, ports = zip(*(each.split(":") for each in hosts), strict=True)
    listed = {"host": ",".join(names), "port": ",".join(ports), "user": "u", "dbname": "n"}
    assert psycopg2.extensions.parse_dsn(url).items() >= listed.items()
    assert psycopg.conninfo.conninfo_to_dict(url).items() >= listed.items()
    engine = sa.create_engine(sqlalchemy_url(url))
    _, options = engine.dialect.create_connect_args(engine.url)
    assert options["user"] == "u"
    assert options["target_session_attrs"] == "read-write"
    assert (options["host"], options["port"]) == (listed["host"], listed["port"])


@pytest.mark.parametrize("text", ["name: x", "system_database_url: x", "- a list", ""])
def test_a_file_without_the_two_keys(tmp_path: Path, text: str) -> None:
    file = tmp_path / "dbos-config.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match="must set name and system_database_url"):
        _ = ShowcaseSettings(config_file=file).database_url


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_available_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], quota: int | None
) -> None:
    import os

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_cpus(tmp_path) == (quota or 8)


def test_slots_and_claims() -> None:
    settings = ShowcaseSettings(cpu_slots=3)
    assert (settings.slots, settings.fibonacci_claims) == (3, 4)
    assert ShowcaseSettings(cpu_slots=3, fibonacci_worker_concurrency=9).fibonacci_claims == 9
    assert ShowcaseSettings().slots >= 1


def test_every_setting_is_in_the_example() -> None:
    """.env.example is where a reader looks: every setting stands there under its name."""
    known = set(re.findall(r"HOLDFAST_\w+", (ROOT / ".env.example").read_text("utf-8")))
    missing = {f"HOLDFAST_{name.upper()}" for name in ShowcaseSettings.model_fields} - known
    assert not missing


def test_settings_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    get_settings.cache_clear()
    try:
        first = get_settings()
        monkeypatch.setenv("HOLDFAST_LEASE_SECONDS", "9")
        assert get_settings() is first
    finally:
        get_settings.cache_clear()
