"""The command line against an API that demands the token for everything."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.api_server import Api, serving_with_token
from tests.support.command import command
from tests.support.database import Database
from tests.support.stack import ROOT, clean_environment

TOKEN = "the-token-of-this-test"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "admin_token"


@pytest.fixture
def api(database: Database, file: Path) -> Iterator[Api]:
    with serving_with_token(database, file, TOKEN) as made:
        yield made


def run(api: Api, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words),
        cwd=ROOT,
        env=clean_environment(
            HOLDFAST_URL=f"http://127.0.0.1:{api.address[1]}", HOLDFAST_HOME="/nonexistent", **environment
        ),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_it_reads_starts_and_controls_with_it(api: Api, database: Database, file: Path) -> None:
    for words in (["submit", "--count", "3"], ["executors"], ["watch", "--once"], ["drain", "worker-a"]):
        done = run(api, *words, "--json", HOLDFAST_ADMIN_TOKEN_FILE=str(file))
        assert done.returncode == 0, done.stderr
        assert isinstance(json.loads(done.stdout), dict)
        assert TOKEN not in done.stdout + done.stderr
    assert database.one("SELECT count(*) FROM dbos.workflow_status WHERE parent_workflow_id IS NULL") == 1


def test_without_it_one_line_says_what_is_missing(api: Api, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("a-guess", "ascii")
    for environment in ({}, {"HOLDFAST_ADMIN_TOKEN_FILE": str(wrong)}):
        done = run(api, "executors", **environment)
        assert done.returncode == 1
        assert "`holdfast token` prints" in done.stderr
        assert len(done.stderr.splitlines()) == 1
