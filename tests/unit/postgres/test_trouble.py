"""An outage is told once, then seldom, and its end is told."""

from __future__ import annotations

import logging

import psycopg2
import pytest

from holdfast.postgres.database import Trouble


def test_an_outage_is_told_once_and_its_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [100.0]
    monkeypatch.setattr("holdfast.postgres.database.time.monotonic", lambda: now[0])
    caplog.set_level(logging.INFO)
    trouble = Trouble(logging.getLogger("test.trouble"), "lease lost", action="lease.lost")
    trouble.over()
    for _ in range(50):
        trouble.met(psycopg2.OperationalError("away"))
        now[0] += 0.25
    trouble.over()
    trouble.over()
    assert [record.getMessage() for record in caplog.records] == [
        "lease lost, trying again: away",
        "lease lost, trying again: away",
        "lease lost: over after 12.5 s",
    ]
