"""Executors share a database and nothing else: no host name, no pid, no file. See tests/chaos/hosts.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from holdfast.process.process import Process
from services.composition import Worker
from services.settings import ShowcaseSettings
from tests.support.sources import source_files

ROOT = Path(__file__).resolve().parents[2]
# What runs in containers; the command line is the operator's and may know its machine.
OPERATORS = ("holdfast/cli/", "holdfast/installations/", "holdfast/audit/")


def test_two_hosts_of_one_name_with_equal_pids_are_two_executors(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HOST": "127.0.0.1", "PORT": "1", "NAME": "x", "USER": "x", "PASSFILE": "x"}.items():
        monkeypatch.setenv(f"HOLDFAST_DATABASE_{name}", value)
    first, second = (Process(ShowcaseSettings(), Worker(), port=8001).identity for _ in range(2))
    assert (first.hostname, first.pid, first.port) == (second.hostname, second.pid, second.port)
    assert first.executor_id != second.executor_id
    # By it a peer ends the sessions of a dead executor: of that one alone.
    assert not first.purpose("lease").startswith(second.purpose("").removesuffix("/"))


def test_no_statement_decides_by_a_host_or_a_pid_of_ours() -> None:
    """Both are there to be shown; `pid` of pg_stat_activity and pg_locks is PostgreSQL's own."""
    found = 0
    for file in source_files("*.sql"):
        for statement in re.split(r"^-- name:", file.read_text("utf-8"), flags=re.MULTILINE):
            found += "hostname" in statement
            condition = statement.partition("WHERE")[2]
            assert not re.search(r"\bhostname\b|\be\.pid\b", condition), f"{file.name}: {statement[:200]}"
            assert not re.search(r"\bON\b[^\n]*(hostname|\be\.pid\b)", statement), f"{file.name}"
    assert found >= 2, "the statements are read"


KNOWN = {
    # Themselves; a watchdog its own parent.
    r"os\.kill\(": {
        "holdfast/attached/process.py",
        "holdfast/attached/stop_signals.py",
        "holdfast/process/process.py",
        "holdfast/recovery/watchdog_child.py",
        "services/worker/poison/workflows.py",
    },
    # Its own score; its parent's state.
    r"/proc/": {
        "holdfast/compute/cpu_child.py",
        "holdfast/compute/step_child.py",
        "holdfast/recovery/watchdog_child.py",
    },
    r"/sys/": {"holdfast/cpu_quota.py"},  # the CPUs that its own control group gives it
    r"gethostname": {"holdfast/attached/identity.py", "holdfast/process/process.py"},  # to be shown
    r"\btempfile\b|/tmp\b": set(),
    r"AF_UNIX|flock|lockf": set(),
}
"""What could reach another process of this machine, and who may: each reaches itself alone."""


@pytest.mark.parametrize("pattern", KNOWN)
def test_whatever_reaches_into_the_machine_reaches_itself_alone(pattern: str) -> None:
    files = {str(file.relative_to(ROOT)): file.read_text("utf-8") for file in source_files()}
    files = {name: text for name, text in files.items() if not name.startswith(OPERATORS)}
    assert len(files) > 50
    uses = {name for name, text in files.items() if re.search(pattern, text)}
    assert uses == KNOWN[pattern]
