"""An API that others could reach without a token does not start, and says which settings to change."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.stack import ROOT, clean_environment

OPEN = [
    {"HOLDFAST_PUBLISH_ADDRESS": "0.0.0.0"},
    {"HOLDFAST_PUBLISH_ADDRESS": "[::]", "HOLDFAST_BIND_HOST": "127.0.0.1"},
    {"HOLDFAST_PUBLISH_ADDRESS": "192.168.1.5", "HOLDFAST_BIND_HOST": "0.0.0.0"},
    {"HOLDFAST_BIND_HOST": "0.0.0.0"},
    {"HOLDFAST_BIND_HOST": "::", "HOLDFAST_PUBLISH_ADDRESS": ""},
    {"HOLDFAST_BIND_HOST": "myhost"},
]


def run(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    # No database is there: what must not start never gets that far.
    environment = clean_environment(
        HOLDFAST_DATABASE_HOST="127.0.0.1", HOLDFAST_DATABASE_PORT="9", **settings
    )
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("settings", OPEN, ids=str)
def test_the_api_refuses_to_start(settings: dict[str, str]) -> None:
    done = run("services.api", HOLDFAST_API_PORT="0", **settings)
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    refused = json.loads(line)
    assert (refused["level"], refused["action"], done.stderr) == ("CRITICAL", "executor.refused", "")
    assert "HOLDFAST_REQUIRE_TOKEN=true" in refused["message"]
    judged = "HOLDFAST_PUBLISH_ADDRESS" if settings.get("HOLDFAST_PUBLISH_ADDRESS") else "HOLDFAST_BIND_HOST"
    assert f"{judged}={settings[judged]} " in refused["message"]


@pytest.mark.parametrize(
    "settings",
    [
        {"HOLDFAST_BIND_HOST": "0.0.0.0", "HOLDFAST_PUBLISH_ADDRESS": "127.0.0.1"},
        {"HOLDFAST_BIND_HOST": "0.0.0.0", "HOLDFAST_REQUIRE_TOKEN": "true", "HOLDFAST_ADMIN_TOKEN_FILE": "x"},
        {},
        # Empty is the default: this machine alone.
        {"HOLDFAST_BIND_HOST": "", "HOLDFAST_PUBLISH_ADDRESS": ""},
    ],
    ids=str,
)
def test_it_starts_where_it_may(settings: dict[str, str]) -> None:
    done = run("services.api", HOLDFAST_API_PORT="0", HOLDFAST_DATABASE_WAIT_SECONDS="0", **settings)
    # It got as far as its database, which is not there.
    assert done.returncode == 1
    assert "HOLDFAST_REQUIRE_TOKEN" not in done.stdout
    assert "executor.no_database" in done.stdout


def test_a_token_for_everything_without_a_file() -> None:
    done = run("services.api", HOLDFAST_API_PORT="0", HOLDFAST_REQUIRE_TOKEN="true")
    assert done.returncode == 1
    assert "HOLDFAST_ADMIN_TOKEN_FILE" in done.stdout


@pytest.mark.parametrize("words", [["--detach"], []], ids=["make up", "make native"])
def test_the_native_runner_says_it_at_once(tmp_path: Path, words: list[str]) -> None:
    home = tmp_path / "home"
    command = ["holdfast.installations.native", "up", "--data", str(home), *words]
    done = run(*command, HOLDFAST_BIND_HOST="0.0.0.0", HOLDFAST_PUBLISH_ADDRESS="127.0.0.1")
    assert done.returncode == 1
    # Compose's setting opens nothing here: nobody publishes.
    assert "native: HOLDFAST_BIND_HOST=0.0.0.0 " in done.stderr
    assert "HOLDFAST_REQUIRE_TOKEN=true" in done.stderr
    assert not (home / "data").exists(), "nothing was started"


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"HOLDFAST_PUBLISH_ADDRESS": "0.0.0.0"}, True),
        ({"HOLDFAST_PUBLISH_ADDRESS": "0.0.0.0", "HOLDFAST_REQUIRE_TOKEN": "true"}, False),
        ({"HOLDFAST_PUBLISH_ADDRESS": "127.0.0.1"}, False),
    ],
    ids=str,
)
def test_composes_first_one_shot_says_it_too(tmp_path: Path, settings: dict[str, str], refused: bool) -> None:
    """It ends `docker compose up`; the API would be started again for ever."""
    done = run("holdfast.installations.secrets", str(tmp_path), HOLDFAST_BIND_HOST="0.0.0.0", **settings)
    assert done.returncode == refused, done.stderr
    assert ("HOLDFAST_REQUIRE_TOKEN=true" in done.stderr) is refused
    assert (tmp_path / "api" / "admin_token").exists() is not refused
