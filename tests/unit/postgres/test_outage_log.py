"""The log of an outage: its first failure, then one line every ten seconds, and its end."""

from __future__ import annotations

import logging

import psycopg2
import pytest

from holdfast.postgres.outage_log import OutageLog


def test_an_outage_logs_its_first_failure_one_line_per_interval_and_its_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [100.0]
    monkeypatch.setattr("holdfast.postgres.outage_log.time.monotonic", lambda: now[0])
    caplog.set_level(logging.INFO)
    outage_log = OutageLog(logging.getLogger("test.outage"), "lease lost", action="lease.lost")
    outage_log.record_success()
    for _ in range(50):
        outage_log.record_failure(psycopg2.OperationalError("away"))
        now[0] += 0.25
    outage_log.record_success()
    outage_log.record_success()
    assert [record.getMessage() for record in caplog.records] == [
        "lease lost, trying again: away",
        "lease lost, trying again: away",
        "lease lost: over after 12.5 s",
    ]
