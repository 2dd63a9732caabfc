"""An API over a fake process. A file whose process differs has a fixture ``process`` of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from tests.support.app import create_app
from tests.unit.api_fakes import ADMIN, FakeProcess


@pytest.fixture
def process() -> FakeProcess:
    return FakeProcess()


@pytest.fixture
def client(process: FakeProcess) -> Iterator[TestClient]:
    """Sends the token of an administrator."""
    with TestClient(create_app(process), raise_server_exceptions=False, headers=ADMIN) as client:  # type: ignore[arg-type]
        yield client
        assert client.app.state.waiters.in_use == 0, "however a wait ends, its place is free again"  # type: ignore[attr-defined]
