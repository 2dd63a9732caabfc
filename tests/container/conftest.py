"""Container tests: the image is built once, compose projects are ended also when pytest is told to stop."""

from __future__ import annotations

import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.reporting import pytest_runtest_makereport, pytest_terminal_summary, record
from tests.support.stack import ROOT, clean_environment

__all__ = ["pytest_runtest_makereport", "pytest_terminal_summary"]


@pytest.fixture(scope="session")
def image() -> Iterator[str]:
    """The name of an image built from this checkout; removed at the end, its cached layers stay."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    name = f"holdfast-test:{secrets.token_hex(4)}"
    begun = time.monotonic()
    done = subprocess.run(
        ["docker", "compose", "--project-name", "holdfast-test", "--env-file", "/dev/null", "build", "api"],
        cwd=ROOT,
        env=clean_environment(HOLDFAST_IMAGE=name),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, f"docker compose build failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    record("image build, seconds", time.monotonic() - begun)
    try:
        yield name
    finally:
        subprocess.run(["docker", "image", "rm", name], capture_output=True)
        signal.signal(signal.SIGTERM, before)
