"""Rounds of schemathesis against one target, until so many cases are done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz.ground import EXECUTORS, Ground
from tests.support.stack import ROOT

REQUEST_SECONDS = 10
"""No answer takes longer, also not under load; one that does is a failure."""

_CONFIG = """
[[operations]]
include-name = "POST /workflows"
# The schema cannot say which names are registered. Another one is 422.
checks.positive_data_acceptance.expected-statuses = ["2xx", "3xx", 401, 403, 404, 409, 422, 429, "5xx"]
"""


@dataclass(frozen=True)
class Round:
    """What one run of schemathesis found."""

    seed: int
    code: int
    cases: int
    operations: int
    seconds: float
    failures: list[dict[str, Any]]
    output: str

    @property
    def passed(self) -> bool:
        return self.code == 0 and not self.failures


def fuzz(ground: Ground, *, seed: int, examples: int, phases: str, limit_seconds: float) -> Round:
    """One run over every operation of the schema, positive and negative, with every check.

    `examples` bounds the random cases of an operation; the systematic ones at the bounds of each field
    (phase `coverage`) come on top and do not depend on the seed.
    """
    known = {"workflow_id": ground.workflows, "executor_id": list(EXECUTORS), "name": ["alpha", "beta"]}
    environment = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": "tests.fuzz.hooks",
        "HOLDFAST_FUZZ_KNOWN": json.dumps(known),
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": str(ROOT),
    }
    with tempfile.TemporaryDirectory(prefix="holdfast-fuzz-") as home:
        report = Path(home) / "report.json"
        (Path(home) / "schemathesis.toml").write_text(_CONFIG)
        command = [
            *(str(Path(sys.executable).parent / "schemathesis"), "run", f"{ground.url}/openapi.json"),
            *("--mode", "all", "--checks", "all", "--phases", phases, "--continue-on-failure"),
            *("--seed", str(seed), "--max-examples", str(examples), "--no-color"),
            *("--request-timeout", str(REQUEST_SECONDS), "--warnings", "off"),
            *("--suppress-health-check", "all"),
            *("--header", f"Authorization: {ground.api.http.headers['Authorization']}"),
            # What is deleted is stored again (ground.py).
            *("--exclude-checks", "use_after_free"),
            # It never ends; its own tests read it.
            *("--exclude-path", "/console/events"),
            *("--report", "json", "--report-json-path", str(report)),
        ]
        done = subprocess.run(
            command, cwd=home, env=environment, capture_output=True, text=True, timeout=limit_seconds
        )
        output = done.stdout + done.stderr
        found: dict[str, Any] = json.loads(report.read_text()) if report.exists() else {}
    if not found:
        return Round(seed, done.returncode or 1, 0, 0, 0.0, [], output)
    return Round(
        seed,
        done.returncode,
        found["test_cases"]["generated"],
        found["operations"]["tested"],
        found["running_time"],
        found["failures"] + found["errors"],
        output,
    )
