"""Chromium for the console's tests. Without it they are skipped, loudly and by name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect, sync_playwright

from tests.support.reporting import pytest_terminal_summary as show_figures

_REQUIRED = "HOLDFAST_REQUIRE_DOCKER"
_CANDIDATES = ("chromium", "chromium-browser", "google-chrome")
_without_browser: list[str] = []

# A shared machine may take seconds to start a page; what has to be fast is measured on its own.
PATIENCE_MS = 20_000
expect.set_options(timeout=PATIENCE_MS)


def chromium() -> str | None:
    """The system's Chromium; HOLDFAST_TEST_BROWSER names another one."""
    named = os.environ.get("HOLDFAST_TEST_BROWSER")
    return named or next(filter(None, map(shutil.which, _CANDIDATES)), None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if chromium() is not None:
        return
    if os.environ.get(_REQUIRED, "") not in ("", "0"):
        pytest.fail(f"{_REQUIRED} is set, but there is no Chromium (apt-get install chromium)", pytrace=False)
    _without_browser.append(item.nodeid)
    pytest.skip("no Chromium: apt-get install chromium")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    show_figures(terminalreporter)
    if not _without_browser:
        return
    terminalreporter.section("NOT TESTED: no Chromium", sep="!", yellow=True)
    for name in _without_browser:
        terminalreporter.line(f"not tested: {name}")
    terminalreporter.line(f"{_REQUIRED}=1 makes this a failure")


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    # No longer than a module: while it lives, an event loop runs in this thread, and DBOS refuses there.
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    options = ["--no-sandbox", "--disable-background-networking", "--disable-dev-shm-usage"]
    launched = playwright.chromium.launch(executable_path=chromium(), args=options)
    yield launched
    launched.close()


@pytest.fixture
def new_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens pages; whatever one reports as an error of its own fails the test at its end."""
    contexts: list[BrowserContext] = []
    problems: list[str] = []

    def opened(**options: object) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})  # type: ignore[arg-type]
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if _ours(message) else None)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


def _ours(message: object) -> bool:
    text = str(getattr(message, "text", ""))
    # A server that is stopped on purpose is no error of the page.
    return getattr(message, "type", "") == "error" and "Failed to load resource" not in text
