from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.attached import AppRunner, app_runner
from tests.support.database import Database


@pytest.fixture
def apps(database: Database, tmp_path: Path) -> Iterator[AppRunner]:
    """Starts plain DBOS applications under `holdfast run` against this test's database."""
    with app_runner(database, tmp_path) as runner:
        yield runner
