"""What the page is sent of a heartbeat."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast.console.page_data import PageData


@pytest.mark.parametrize(
    ("seconds", "changed", "published"),
    [
        (1.0, {}, False),  # each second of each executor would be a change of every page
        (2.0, {}, True),
        (1.0, {"in_flight": 2}, True),
        (-0.5, {}, True),  # the database was restored, or its clock was put back
    ],
)
def test_a_heartbeat_alone_is_published_now_and_then(
    seconds: float, changed: dict[str, Any], published: bool
) -> None:
    async def ask(name: str, **_: Any) -> list[Any]:
        return [] if name == "console_unfinished" else [{"parked": 0, "orphaned": 0, "stranded": 0}]

    data = PageData(ask, window_seconds=900, lease_seconds=5, pulse=None)
    first = {"executor_id": "worker-a", "heartbeat_at": 1000.0, "in_flight": 1, "now": 1000.0}
    asyncio.run(data.read([first], 1000.0))
    data.take()
    second = first | {"heartbeat_at": 1000.0 + seconds} | changed
    asyncio.run(data.read([second], 1001.0))
    expected = [{name: second[name] for name in second if name != "now"}] if published else []
    assert data.take()[0]["executors"] == expected
