"""The servers' data of a test session that was killed: the next session deletes it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import data_folder


def test_only_the_data_of_ended_sessions_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_folder, "_MEMORY", tmp_path)
    monkeypatch.setattr(data_folder, "_NEEDED_BYTES", 0)
    monkeypatch.setattr(data_folder, "_chosen", [])
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    for name in (ended.pid, os.getppid(), os.getpid(), "test-x", "0"):
        (tmp_path / f"holdfast-{name}" / "data").mkdir(parents=True)
    data_folder.use_memory()
    mine = tmp_path / f"holdfast-{os.getpid()}"
    assert data_folder.environment() == {"TMPDIR": str(mine)}
    left = {path.parent.name for path in tmp_path.glob("*/data")}
    assert left == {f"holdfast-{os.getppid()}", "holdfast-test-x"}
    data_folder.leave_memory()
    assert not mine.exists() and data_folder.environment() == {}
