"""An attached process reads the options of an executor as the stack does, but without pydantic."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from pydantic import ValidationError

from holdfast.attached.settings import ATTACHED_OPTIONS, AttachedSettings
from holdfast.dbos_adapter.launching import Configured
from holdfast.executor_settings import OPTIONS
from holdfast.settings import Settings

_CONFIGURED = Configured(
    application="shop",
    version="1",
    executor_id="local",
    database_url="host=somewhere",
    schema="dbos",
    listens_to_all=True,
    uses_conductor=False,
    is_launched=False,
    is_ours=False,
)


def _attached(**environment: str) -> AttachedSettings:
    return AttachedSettings(_CONFIGURED, environment)


def test_an_attached_process_does_not_load_pydantic_settings() -> None:
    """Which costs 8 MB. What the probes and the command need is not loaded for it either."""
    code = "import sys, holdfast.attached.attachment; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"pydantic", "pydantic_settings", "fastapi", "typer", "rich", "holdfast.settings"}
    assert heavy & set(loaded.stdout.split()) == set()


@pytest.mark.parametrize("name", OPTIONS)
def test_the_defaults_are_those_of_the_stack(name: str) -> None:
    assert getattr(_attached(), name) == getattr(Settings(), name) == OPTIONS[name].default


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("lease_seconds", "-1", "HOLDFAST_LEASE_SECONDS=-1: it must be greater than 0"),
        ("lease_seconds", "five", "HOLDFAST_LEASE_SECONDS=five: it must be a number"),
        ("heartbeat_seconds", "nan", "it must be a number"),
        ("second_look_seconds", "0.1", "it must be at least 0.15"),
        ("crash_limit", "1", "it must be at least 2"),
        ("crash_limit", "2.5", "it must be a whole number"),
        ("chaos", "maybe", "it must be true or false"),
        ("heartbeat_seconds", "5", "HOLDFAST_HEARTBEAT_SECONDS (5)"),
        ("drain_seconds", "60", "HOLDFAST_DRAIN_SECONDS (60)"),
    ],
)
def test_what_the_stack_refuses_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, sentence: str
) -> None:
    with pytest.raises(ValueError, match="HOLDFAST_") as refused:
        _attached(**{f"HOLDFAST_{name.upper()}": text})
    assert sentence in str(refused.value)
    monkeypatch.setenv(f"HOLDFAST_{name.upper()}", text)
    with pytest.raises(ValidationError):
        Settings()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("drain_seconds", "7", 7.0),
        ("chaos", "Yes", True),
        ("chaos", "0", False),
        ("bind_host", "0.0.0.0", "0.0.0.0"),
        ("lease_seconds", "", 5.0),
        ("crash_limit", "9", 9),
    ],
)
def test_what_the_stack_accepts_is_accepted(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object
) -> None:
    monkeypatch.setenv(f"HOLDFAST_{name.upper()}", text)
    assert getattr(AttachedSettings(_CONFIGURED), name) == getattr(Settings(), name) == value


def test_its_own_options() -> None:
    settings = _attached(
        HOLDFAST_PORT="9464",
        HOLDFAST_ON_FENCED="log",
        HOLDFAST_REQUIRED="true",
        holdfast_adopt_after_seconds="6",
    )
    assert (settings.port, settings.on_fenced, settings.required) == (9464, "log", True)
    assert settings.adopt_after_seconds == 6
    assert (_attached().port, _attached().database_wait_seconds) == (None, 15)
    for given in ({"HOLDFAST_PORT": "70000"}, {"HOLDFAST_PORT": "http"}, {"HOLDFAST_ON_FENCED": "stay"}):
        with pytest.raises(ValueError, match="HOLDFAST_"):
            _attached(**given)


def test_every_wrong_value_is_named() -> None:
    with pytest.raises(ValueError, match="HOLDFAST_") as refused:
        _attached(HOLDFAST_LEASE_SECONDS="x", HOLDFAST_PORT="x")
    assert str(refused.value).count("it must be") == 2
    assert set(OPTIONS) < set(ATTACHED_OPTIONS)


def test_the_database_and_the_name_are_the_applications() -> None:
    settings = AttachedSettings(replace(_CONFIGURED, application="other"), {})
    assert (settings.database_url, settings.application_names) == ("host=somewhere", ["other"])
