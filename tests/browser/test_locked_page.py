"""The page of an API that demands the token for everything, over real sockets and a real PostgreSQL."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.support.api_server import Api, serving_with_token
from tests.support.database import Database

NewPage = Callable[..., Page]
TOKEN = secrets.token_urlsafe(32)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "admin_token"


@pytest.fixture
def api(database: Database, file: Path) -> Iterator[Api]:
    with serving_with_token(database, file, TOKEN) as made:
        yield made


def opened(new_page: NewPage, api: Api, path: str = "/") -> tuple[Page, list[str]]:
    page = new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(str(api.http.base_url).rstrip("/") + path)
    return page, asked


def give(page: Page, token: str) -> None:
    expect(page.locator("#token-dialog")).to_be_visible()
    page.fill("#token", token)
    page.keyboard.press("Enter")


def test_it_asks_once_and_then_everything_works(new_page: NewPage, api: Api, database: Database) -> None:
    page, asked = opened(new_page, api)
    give(page, "wrong")
    expect(page.locator("#token-again")).to_be_visible()
    assert page.locator("#sentence").text_content() == "Looking …"
    give(page, TOKEN)
    expect(page.locator("#live")).to_contain_text("● live")
    expect(page.locator("#heads")).to_contain_text("worker-a")
    expect(page.locator("#token-dialog")).to_be_hidden()
    page.click("#start")
    page.click("form[data-scene=nested] button")
    expect(page.locator("#notices")).to_contain_text("Started.")
    page.click("#notices a")
    expect(page.locator("#workflow-status")).to_contain_text("waiting")
    page.click("#do-cancel")
    page.click("#confirm-yes")
    expect(page.locator("#workflow-status")).to_contain_text("cancelled")
    # This tab keeps it, and nothing else does.
    page.reload()
    expect(page.locator("#workflow-status")).to_contain_text("cancelled")
    expect(page.locator("#token-dialog")).to_be_hidden()
    assert not [url for url in asked if TOKEN in url], "a token in an address"
    assert page.context.cookies() == []
    assert TOKEN not in page.evaluate("JSON.stringify(localStorage)")
    other, _ = opened(new_page, api)
    expect(other.locator("#token-dialog")).to_be_visible()


def test_whoever_declines_sees_nothing_and_is_not_asked_again(new_page: NewPage, api: Api) -> None:
    page, asked = opened(new_page, api)
    expect(page.locator("#token-dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#live")).to_have_text("○ locked")
    expect(page.locator("#sentence")).to_contain_text("admin token")
    expect(page.locator("#loading")).to_be_hidden()
    asked.clear()
    page.wait_for_timeout(3000)  # nothing is to happen: there is no condition to wait for
    assert [url for url in asked if "/static/" not in url] == [], "it goes on asking the server"
    expect(page.locator("#token-dialog")).to_be_hidden()
    assert "worker-a" not in page.content()
    page.click("#admin")
    give(page, TOKEN)
    expect(page.locator("#live")).to_contain_text("● live")


def test_a_workflows_page_asks_once_though_it_calls_at_once(new_page: NewPage, api: Api) -> None:
    started = api.http.post("/nested").json()["workflow_id"]
    page, _ = opened(new_page, api, f"/console/workflows/{started}")
    give(page, TOKEN)
    expect(page.locator("#workflow-status")).to_contain_text("waiting")
    expect(page.locator("#token-dialog")).to_be_hidden()
    expect(page.locator("#live")).to_contain_text("● live")


def test_a_new_token_is_asked_for(new_page: NewPage, api: Api, file: Path) -> None:
    page, _ = opened(new_page, api)
    give(page, TOKEN)
    expect(page.locator("#live")).to_contain_text("● live")
    file.write_text("the-second-token", "ascii")
    page.click("#start")
    page.click("form[data-scene=nested] button")
    expect(page.locator("#token-again")).to_be_visible()
    give(page, "the-second-token")
    expect(page.locator("#notices")).to_contain_text("Started.")


def test_the_docs_run_nothing_from_elsewhere_and_know_the_token(new_page: NewPage, api: Api) -> None:
    page, _ = opened(new_page, api)
    give(page, TOKEN)
    expect(page.locator("#live")).to_contain_text("● live")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.click("a.docs")
    expect(page.locator(".swagger-ui .opblock")).not_to_have_count(0)
    expect(page.locator("#swagger-ui")).to_contain_text("/fibonacci/batches")
    page.locator(".opblock", has_text="/executors").first.locator(".opblock-summary-control").click()
    page.click(".try-out__btn")
    page.click(".execute")
    expect(page.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
    base = str(api.http.base_url)
    assert asked and not [url for url in asked if not url.startswith((base, "data:"))], asked
    assert not [url for url in asked if TOKEN in url]
