"""The console's page against a native stack: a kill, orders, an API that goes and comes back.

HOLDFAST_SCREENSHOTS=1 (``make screenshots``) also writes the pictures of the documentation.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.support.native_stack import NativeStack
from tests.support.reporting import record
from tests.support.stack import ROOT, Stack, running_stack, wait_for

NewPage = Callable[..., Page]
IMAGES = ROOT / "docs" / "images"
NUMBERS = [35] * 8

# As the page drew it last: the end of a lane with its words, and the lines that leave it.
ENDED = """([lane]) => {
  const drawn = document.querySelector('#timeline').drawn();
  const end = drawn.find((hit) => hit.kind === 'end' && hit.lane === lane
    && hit.words.includes('taken over'));
  const lines = drawn.filter((hit) => hit.kind === 'thread' && hit.from === lane);
  return end && lines.length ? { words: end.words, lines: lines.length, at: Date.now() / 1000 } : null;
}"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One stack for the module, where a crash may be ordered."""
    started = NativeStack(
        tmp_path_factory.mktemp("console"),
        HOLDFAST_CHAOS="true",
        HOLDFAST_FIBONACCI_MAX_N="37",
        HOLDFAST_DRAIN_SECONDS="4",
    )
    with running_stack(started) as stack:
        yield stack


def opened(new_page: NewPage, stack: Stack, path: str = "/", **options: object) -> Page:
    page = new_page(**options)
    page.goto(stack.url + path)
    expect(page.locator("#live")).to_contain_text("● live")
    return page


def wanted() -> bool:
    return os.environ.get("HOLDFAST_SCREENSHOTS", "") not in ("", "0")


def picture(page: Page, name: str) -> None:
    """For the documentation, only when it was asked for."""
    if not wanted():
        return
    IMAGES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=IMAGES / f"{name}.png", scale="css")


def token(stack: Stack) -> str:
    assert isinstance(stack, NativeStack)
    return Path(stack.state["admin_token_file"]).read_text("ascii").strip()


def strand(stack: Stack, workflow_id: str) -> None:
    assert isinstance(stack, NativeStack)
    with closing(stack.connect()) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE dbos.workflow_status SET application_version = 'api-0', status = 'ENQUEUED',"
            " completed_at = NULL, queue_name = '_dbos_internal_queue' WHERE workflow_uuid = %s",
            [workflow_id],
        )
        assert cursor.rowcount == 1


def test_a_batch_from_the_page_a_kill_and_where_the_work_goes_on(new_page: NewPage, stack: Stack) -> None:
    page = opened(new_page, stack)
    workers = stack.workers()
    expect(page.locator("#heads .head")).to_have_count(3)
    page.click("#start")
    page.fill("form[data-scene=batch] input[name=count]", "60")
    page.click("form[data-scene=batch] button")
    expect(page.locator("#notices")).to_contain_text("Started.")
    stack.start_batch(numbers=NUMBERS)
    victim = wait_for(
        lambda: next((w for w in workers if len(stack.busy_children(w)) >= 1), None), 60, "a busy worker"
    )
    stack.kill(victim)
    shown = page.wait_for_function(ENDED, arg=[victim.executor_id], polling=20, timeout=60_000).json_value()
    (row,) = stack.query(
        "SELECT extract(epoch FROM min(claimed_at))::float8 AS claimed,"
        " extract(epoch FROM min(claimed_at) - min(lost_at))::float8 AS seconds"
        f" FROM ops.handovers WHERE from_executor = '{victim.executor_id}'"
    )
    late = shown["at"] - row["claimed"]
    record("console_seconds_from_claim_to_picture", late)
    # The database's clock is this machine's here. What is recorded is on the screen within a second.
    assert late < 1.0, (shown, row)
    assert "lock lost" in shown["words"]
    head = page.locator(f"#heads .head[title='{victim.executor_id}'] .state")
    expect(head).to_have_text("dead")
    expect(page.locator("#sentence")).to_contain_text("Last takeover")
    if wanted():
        page.click(".segments label >> nth=0")
        page.click("#notices button")
        page.wait_for_timeout(3000)  # for a picture with some life after the kill
    picture(page, "console")
    taken = stack.query(
        f"SELECT workflow_id FROM ops.handovers WHERE from_executor = '{victim.executor_id}' LIMIT 1"
    )[0]["workflow_id"]
    page.goto(f"{stack.url}/console/workflows/{taken}")
    expect(page.locator("#attempts li")).to_have_count(2)
    expect(page.locator("#attempts li").first).to_contain_text("lost with its executor")
    expect(page.locator("#tree a[aria-current=page]")).to_have_count(1)
    picture(page, "console-workflow")
    dark = opened(new_page, stack, color_scheme="dark")
    wait_for(lambda: dark.evaluate("document.querySelector('#timeline').drawn().length"), 20, "a picture")
    picture(dark, "console-dark")


def test_control_operations_with_the_token(new_page: NewPage, stack: Stack) -> None:
    leaver = stack.workers()[0]
    page = opened(new_page, stack)
    page.click(f"#heads .head[title='{leaver.executor_id}']")
    page.click("#executor-drain")
    page.click("#confirm-yes")
    page.fill("#token", token(stack))
    page.keyboard.press("Enter")
    expect(page.locator("#notices")).to_contain_text("drains. Watch its lane")
    head = page.locator(f"#heads .head[title='{leaver.executor_id}'] .state")
    expect(head).to_have_text("drained", timeout=60_000)
    victim = next(w for w in stack.workers() if w.executor_id != leaver.executor_id)
    page.click(f"#heads .head[title='{victim.executor_id}']")
    page.click("#executor-crash")
    page.click("#confirm-yes")
    head = page.locator(f"#heads .head[title='{victim.executor_id}'] .state")
    expect(head).to_have_text("dead", timeout=60_000)
    scope = stack.post("/scope/class", {"steps": 200, "step_seconds": 0.2})["workflow_id"]
    page.goto(f"{stack.url}/console/workflows/{scope}")
    expect(page.locator("#steps tr").nth(3)).to_be_visible()
    page.click("#do-cancel")
    page.click("#confirm-yes")
    expect(page.locator("#workflow-status")).to_contain_text("cancelled")
    page.click("#do-resume")
    expect(page.locator("#workflow-status")).to_contain_text("running")


def test_a_fork_and_an_adoption(new_page: NewPage, stack: Stack) -> None:
    page = opened(new_page, stack)
    scope = stack.post("/scope/class", {"steps": 4, "step_seconds": 0, "wait": True})["workflow_id"]
    page.goto(f"{stack.url}/console/workflows/{scope}")
    expect(page.locator("#workflow-status")).to_contain_text("succeeded")
    page.fill("#fork-step", "3")
    page.click("#do-fork")
    page.fill("#token", token(stack))
    page.keyboard.press("Enter")
    copy = page.locator("#notices a")
    expect(copy).to_be_visible()
    copy_id = str(copy.text_content())
    page.goto(f"{stack.url}/console/workflows/{copy_id}")
    expect(page.locator("#workflow-about")).to_contain_text(f"a copy of {scope}")
    expect(page.locator("#workflow-status")).to_contain_text("succeeded")
    # Queued by a release that is gone: as a downgrade or a lost image leaves it.
    strand(stack, copy_id)
    page.reload()
    page.click("#do-adopt")
    page.click("#confirm-yes")
    expect(page.locator("#notices")).to_contain_text("Adopted by version api-")
    expect(page.locator("#workflow-status")).to_contain_text("succeeded")
    assert stack.get(f"/workflows/{copy_id}")["application_version"] != "api-0"


def test_an_api_that_stops_and_comes_back(new_page: NewPage, stack: Stack) -> None:
    page = opened(new_page, stack)
    phone = opened(new_page, stack, viewport={"width": 390, "height": 844})
    before = stack.api()
    began = time.monotonic()
    stack.crash(before)
    expect(page.locator("#live")).to_contain_text("○ last seen")
    record("console_seconds_until_away_is_said", time.monotonic() - began)
    stack.api()
    for each in (page, phone):
        expect(each.locator("#live")).to_contain_text("● live", timeout=40_000)
        expect(each.locator("#trouble")).to_be_hidden(timeout=40_000)
    expect(page.locator(f"#heads .head[title='{before.executor_id}'] .state")).to_have_text("dead")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    expect(phone.locator("#phone li").first).to_be_visible()
    picture(phone, "console-phone")
