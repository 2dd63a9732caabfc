"""Tracing while it is off, and how often a collector that is away is told about."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from holdfast.api.submit import Work, enqueue_options
from holdfast.observability import tracing
from holdfast.settings import Settings
from tests.support import names
from tests.unit.api_fakes import FakeSettings


def test_off_changes_no_row_and_no_log_line() -> None:
    assert not tracing.is_enabled()
    options = enqueue_options(FakeSettings(), Work(names.FIBONACCI_BATCH, ([1],), "batch"), "batch-1")
    assert not {"otel_context", "attributes"} & set(options)
    assert tracing.dbos_options() == {}
    assert tracing.ids() == {}
    assert tracing.fastapi_options()["tracing"] is False
    with tracing.propagated():
        tracing.mark_run()
    tracing.stop(1.0)


@pytest.mark.parametrize(("endpoint", "loaded"), [("", "False"), ("http://127.0.0.1:9", "True")])
def test_the_sdk_is_imported_only_where_an_endpoint_is_set(endpoint: str, loaded: str) -> None:
    """By everything that the API and a worker import, and by the start of tracing."""
    code = (
        "import sys\n"
        "import holdfast.api.app, holdfast.process.worker_app, holdfast.process.serve\n"
        "import services.composition; services.composition.features()\n"
        "import services.worker.fibonacci.workflows, services.api.scope.workflows\n"
        "import services.api.users.workflows\n"
        "from holdfast.observability import tracing\n"
        "from holdfast.settings import Settings\n"
        f"settings = Settings(otlp_endpoint={endpoint!r})\n"
        "tracing.start(settings, application='a', version='1', executor_id='e')\n"
        "heavy = ('opentelemetry.sdk', 'opentelemetry.exporter', 'google.protobuf', 'requests')\n"
        "print(any(module.startswith(heavy) for module in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == loaded


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_ENDPOINT", "FASTAPI_OTEL_AUTO_CONFIGURE"])
def test_no_other_variable_switches_it_on(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "true")
    assert tracing.fastapi_options()["auto_configure"] is False
    tracing.start(Settings(), application="a", version="1", executor_id="e")
    assert not tracing.is_enabled()


def test_probes_and_scrapes_get_no_span() -> None:
    exclude = tracing.fastapi_options()["exclude"]
    assert exclude is not None
    assert [path for path in ("/livez", "/readyz", "/metrics", "/nested") if exclude({"path": path})] == [
        "/livez",
        "/readyz",
        "/metrics",
    ]


def test_a_collector_that_is_away_is_logged_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("holdfast.observability.tracing.time.monotonic", lambda: now[0])
    filtered = tracing._RateLimited(60.0)

    def told() -> bool:
        record = logging.LogRecord("x", logging.ERROR, "x", 1, "away", None, None)
        passed = bool(filtered.filter(record))
        assert not passed or record.__dict__["action"] == "tracing.failed"
        return passed

    assert [told(), told()] == [True, False]
    now[0] += 59
    assert not told()
    now[0] += 2
    assert told()
