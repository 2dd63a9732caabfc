"""The oldest DBOS that Holdfast protects, and the oldest that it knows; `make dbos-versions` runs all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.foreign.cases import DBOS_VERSIONS, run
from tests.support import environments
from tests.support.database import Server


@pytest.mark.parametrize("name", ["3.0", "3.2"])
def test_a_plain_application_on_an_older_dbos(name: str, server: Server, tmp_path: Path) -> None:
    case = next(case for case in DBOS_VERSIONS if case.name == name)
    result = run(case, server, environments.wheel(), tmp_path, kills=1)
    assert result.lost is None
    assert result.versions["dbos"].startswith(f"{name}.")
    assert result.remark if case.refused_with else len(result.seconds_in_step) == 1
