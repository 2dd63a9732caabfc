"""What every test of child processes checks."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.database import wait_until


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """A test leaves no descriptor open and no child unburied, whatever failed in it."""

    def held() -> set[str]:
        files = {f"{each}: {each.readlink()}" for each in Path("/proc/self/fd").iterdir() if each.exists()}
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        return files | set(children.read_text().split() if children.exists() else ())

    before = held()
    yield
    with suppress(AssertionError):
        wait_until(lambda: held() <= before, "the last child is buried")
    assert held() - before == set(), "left open or left running"
