"""A hostile page in the browser of somebody who uses Holdfast starts, stops and reads nothing.

Three pages try it: one of another port of this machine (the same site to a browser), one of a foreign name,
and one whose name has been pointed at this machine after it was loaded (DNS rebinding), so that the browser
takes it for Holdfast's own. Each even knows the admin token.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Playwright

from tests.browser.conftest import chromium
from tests.support.api_server import Api, serving
from tests.support.database import Database
from tests.support.executors import Peer

TOKEN = "a-token-that-has-leaked-to-the-page"
ATTACK = (Path(__file__).parent / "hostile.js").read_text("utf-8")
PAGE = "<!doctype html><title>hostile</title><body>"
# Newer browsers ask before a page reaches this machine at all. Others don't: that is not what protects here.
_OWN_GUARDS = (
    "LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests,PrivateNetworkAccessSendPreflights"
)
OWN_GUARDS_OFF = f"--disable-features={_OWN_GUARDS}"
NAMES = ("foreign.example", "rebound.example")


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """Every foreign name is this machine: what an attacker's name server may say."""
    rules = ", ".join(f"MAP {name} 127.0.0.1" for name in NAMES)
    options = ["--no-sandbox", "--disable-background-networking", "--disable-dev-shm-usage"]
    launched = playwright.chromium.launch(
        executable_path=chromium(), args=[*options, OWN_GUARDS_OFF, f"--host-resolver-rules={rules}"]
    )
    yield launched
    launched.close()


@pytest.fixture
def api(database: Database, tmp_path: Path) -> Iterator[Api]:
    file = tmp_path / "admin_token"
    file.write_text(TOKEN, "ascii")
    Peer.start(database, "worker-a")
    with serving(database.settings("api", chaos=True, admin_token_file=file)) as made:
        yield made


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[int]:
    """Port of a server with a hostile page, and with no rule of its own about who may load what."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(PAGE.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    context.set_default_timeout(120_000)
    yield context.new_page()
    context.close()


def state(api: Api, database: Database) -> Any:
    """Everything that an attack could change."""
    return (
        database.one("SELECT count(*) FROM dbos.workflow_status"),
        database.one("SELECT count(*) FROM ops.requests"),
        database.rows("SELECT executor_id, state, desired_state FROM ops.executors"),
        list(api.process.stops),
    )


def attack(page: Page, target: str) -> dict[str, str]:
    """What the page could read, by attempt."""
    results = page.evaluate(ATTACK, {"target": target, "token": TOKEN})
    assert len(results) > 150, "it tried everything"
    return {result["name"]: result["read"] for result in results if result["read"]}


@pytest.mark.parametrize("host", ["127.0.0.1", "foreign.example"], ids=["another port", "a foreign name"])
@pytest.mark.parametrize("target", ["127.0.0.1", "localhost"])
@pytest.mark.timeout(600)
def test_a_page_of_another_origin(  # noqa: PLR0917
    page: Page, api: Api, database: Database, elsewhere: int, host: str, target: str
) -> None:
    before = state(api, database)
    page.goto(f"http://{host}:{elsewhere}/")
    assert attack(page, f"http://{target}:{api.address[1]}") == {}
    assert state(api, database) == before


@pytest.mark.timeout(600)
def test_a_name_that_was_pointed_here_after_it_was_loaded(page: Page, api: Api, database: Database) -> None:
    before = state(api, database)
    origin = f"http://rebound.example:{api.address[1]}"
    # The first answer came from the attacker's server, all later ones come from ours.
    page.route(f"{origin}/attack", lambda route: route.fulfill(body=PAGE, content_type="text/html"))
    page.goto(f"{origin}/attack")
    read = attack(page, origin)
    # It may read what it is told, since the browser takes it for ours: that it is not known here.
    assert {name: text for name, text in read.items() if "unknown-host" not in text and text != "421 "} == {}
    assert [text for text in read.values() if text.startswith("421 ")], "the name reached our server"
    assert state(api, database) == before


def test_our_own_page_may_do_all_that(page: Page, api: Api, database: Database) -> None:
    """Else the others would show nothing."""
    page.goto(f"http://127.0.0.1:{api.address[1]}/")
    call = """async ([path, method, token]) => {
        const headers = token ? { Authorization: `Bearer ${token}` } : {};
        const response = await fetch(path, { method, headers });
        return [response.status, (await response.text()).length > 20];
    }"""
    assert page.evaluate(call, ["/workflows", "GET", None]) == [200, True]
    assert page.evaluate(call, ["/nested", "POST", None]) == [202, True]
    assert page.evaluate(call, ["/executors/worker-a/drain", "POST", None])[0] == 401
    assert page.evaluate(call, ["/executors/worker-a/drain", "POST", TOKEN])[0] == 202
    (stored, _, executors, _) = state(api, database)
    assert stored == 1
    assert executors[0]["desired_state"] == "draining"
