"""The console's page against a fake life: what it shows, how it behaves, who can use it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.fake import TOKEN, Fake, stored
from tests.browser.fake_world import World, crowd, iso, lived
from tests.support.reporting import record
from tests.support.stack import wait_for

NewPage = Callable[..., Page]


@pytest.fixture
def fake() -> Iterator[Fake]:
    with Fake(lived(300.0, mean_seconds=2.5)) as started:
        yield started


def opened(new_page: NewPage, fake: Fake, path: str = "/", **options: Any) -> Page:
    page = new_page(**options)
    page.goto(fake.url + path)
    expect(page.locator("#live")).to_contain_text("● live")
    return page


def live(world: World, role: str = "worker") -> list[str]:
    return [e for e, row in world.executors.items() if row["state"] == "live" and row["role"] == role]


def seen(page: Page, kind: str) -> list[Any]:
    """What the last frame drew: the page keeps it for the pointer, and shows it here for tests."""
    return [
        hit for hit in page.evaluate("document.querySelector('#timeline').drawn()") if hit["kind"] == kind
    ]


def record_picture(page: Page, name: str) -> None:
    """Keeps a picture where HOLDFAST_PICTURES names a directory."""
    if folder := os.environ.get("HOLDFAST_PICTURES"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def busy(fake: Fake, executor_id: str) -> bool:
    return fake.world.executors[executor_id]["in_flight"] > 0


# --- the timeline --------------------------------------------------------------------------------


def test_lanes_and_bars_are_those_of_the_server(new_page: NewPage, fake: Fake) -> None:
    page = opened(new_page, fake)
    heads = page.locator("#heads .head")
    with fake.world.lock:
        since = fake.world.at - 60
        expected = {e for e, r in fake.world.executors.items() if (r["ended_at"] or since + 9) >= since}
    titles = {head.get_attribute("title") for head in heads.all()}
    assert titles >= {e for e in expected if fake.world.executors[e]["ended_at"] is None}
    assert titles <= set(fake.world.executors)
    fake.world.batch(20)
    wait_for(lambda: any(hit["outcome"] == "running" for hit in seen(page, "bar")), 20, "a running bar")
    for hit in seen(page, "bar"):
        assert hit["lane"] == fake.world.bars[hit["key"]]["executor_id"]


def test_time_is_the_databases_not_the_browsers(new_page: NewPage, fake: Fake) -> None:
    fake.world.skew_seconds += 40_000
    page = opened(new_page, fake)
    fake.world.batch(20)
    running = wait_for(
        lambda: [h for h in seen(page, "bar") if h["outcome"] == "running"], 20, "a running bar"
    )
    width = page.evaluate("document.querySelector('#timeline').clientWidth")
    assert all(0.5 * width < hit["x"] <= width for hit in running)


def test_a_takeover_is_a_cross_words_and_a_line_to_the_continuation(new_page: NewPage, fake: Fake) -> None:
    page = opened(new_page, fake)
    fake.world.batch(40)
    victim, peer = live(fake.world)[:2]
    wait_for(lambda: busy(fake, victim) and fake.world.queue, 20, "work")
    fake.world.kill(victim)
    head = page.locator(f"#heads .head[title='{victim}']")
    expect(head.locator(".state")).to_have_text("dead")
    expect(head.locator(".shape")).to_have_text("✖")
    ends = wait_for(
        lambda: [h for h in seen(page, "end") if h["lane"] == victim and "taken" in h["words"]], 20, "mark"
    )
    assert re.fullmatch(r"lock lost, taken over in 0\.3\d s by worker …[0-9a-f]{8} \(\d\)", ends[0]["words"])
    assert peer[-8:] in ends[0]["words"]
    lines = wait_for(lambda: [h for h in seen(page, "thread") if h["from"] == victim], 20, "line")
    assert all(line["to"] in live(fake.world) and line["style"] == "through" for line in lines)
    expect(page.locator("#sentence")).to_contain_text("Last takeover")


def test_a_drain_looks_different_from_a_death(new_page: NewPage, fake: Fake) -> None:
    page = opened(new_page, fake)
    # Attempts that outlast a drain: something is left to hand over.
    fake.world.mean_seconds = 500
    begun = fake.world.at
    fake.world.batch(60)
    leaver = live(fake.world)[0]
    # All that was there before ends within the drain.
    wait_for(lambda: [b for b in fake.world.running(leaver) if b["started_at"] >= begun], 20, "work")
    fake.world.drain(leaver)
    head = page.locator(f"#heads .head[title='{leaver}']")
    expect(head.locator(".state")).to_have_text("draining")
    expect(head.locator(".state")).to_have_text("drained")
    expect(head.locator(".shape")).to_have_text("○")
    ends = wait_for(lambda: [h for h in seen(page, "end") if h["lane"] == leaver], 20, "mark")
    assert ends[0]["words"].startswith("drained, ")
    lines = wait_for(lambda: [h for h in seen(page, "thread") if h["from"] == leaver], 20, "line")
    assert all(line["style"] == "dashed" for line in lines)


def test_a_missed_tick_is_a_dot(new_page: NewPage, fake: Fake) -> None:
    slot = fake.world.at // 5 * 5 - 15
    with fake.world.lock:
        fake.world.pulses[slot] = fake.world.touch({**fake.world.pulses[slot], "status": "missed"})
    page = opened(new_page, fake)
    pulses = wait_for(lambda: seen(page, "pulse"), 20, "ticks")
    assert [p["at"] for p in pulses if p["status"] == "missed"] == [slot]
    box = page.locator("#timeline").bounding_box()
    assert box
    (dot,) = [p for p in wait_for(lambda: seen(page, "pulse"), 20, "ticks") if p["status"] == "missed"]
    page.click("#still")
    (dot,) = [p for p in seen(page, "pulse") if p["status"] == "missed"]
    page.mouse.move(box["x"] + dot["x"] + 5, box["y"] + dot["y"] + 9)
    expect(page.locator("#card")).to_contain_text("is missing")


def test_by_keyboard_from_attempt_to_attempt_and_into_a_workflow(new_page: NewPage, fake: Fake) -> None:
    fake.world.batch(40)
    page = opened(new_page, fake)
    wait_for(lambda: seen(page, "bar"), 20, "bars")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.locator("#timeline").focus()
    spoken = page.locator("#spoken")
    page.keyboard.press("End")
    expect(spoken).to_contain_text("attempt")
    page.keyboard.press("Home")
    first = spoken.inner_text()
    page.keyboard.press("ArrowRight")
    expect(spoken).not_to_have_text(first)
    second = spoken.inner_text()
    page.keyboard.press("ArrowDown")
    expect(spoken).not_to_have_text(second)
    page.keyboard.press("-")
    expect(page.locator("input[name=window][value='2']")).to_be_checked()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"/console/workflows/"))
    expect(page.locator("#workflow-title")).to_be_focused()
    page.go_back()
    expect(page.locator("#overview")).to_be_visible()


def test_the_table_twin_says_what_is_drawn(new_page: NewPage, fake: Fake) -> None:
    page = opened(new_page, fake)
    fake.world.batch(10)
    page.click("#twin summary")
    expect(page.locator("#twin-rows tr").first).to_contain_text("worker")
    expect(page.locator("#twin-count")).to_contain_text("in this window")


# --- the first line ------------------------------------------------------------------------------


def test_the_first_line_warns_in_words(new_page: NewPage, fake: Fake) -> None:
    page = opened(new_page, fake)
    expect(page.locator("#sentence")).to_contain_text("2 workers and 1 API live.")
    expect(page.locator("#warning")).to_be_hidden()
    fake.world.stranded = 3
    expect(page.locator("#warning")).to_contain_text("3 workflows wait for what no live executor runs")
    fake.world.stranded, fake.world.parked = 0, 1
    expect(page.locator("#warning")).to_contain_text("1 workflow crashed too many executors")
    fake.world.parked, fake.world.orphaned = 0, 2
    expect(page.locator("#warning")).to_contain_text("no peer has taken them over")
    fake.world.orphaned = 0
    for worker in live(fake.world):
        fake.world.kill(worker, taken_over=False, restart=False)
    fake.world.orphaned = 0
    expect(page.locator("#warning")).to_contain_text("No worker is live")
    assert page.title() == "⚠ Holdfast"
    fake.world.start_executor("worker")
    expect(page.locator("#warning")).to_be_hidden()


def test_a_database_that_is_away_is_said_and_the_data_stays(new_page: NewPage, fake: Fake) -> None:
    page = opened(new_page, fake)
    bars = len(seen(page, "bar"))
    fake.world.lose_database()
    expect(page.locator("#warning")).to_contain_text("The database has been away for")
    assert page.locator("#heads .head").count() >= 3
    assert len(seen(page, "bar")) >= bars - 5
    fake.world.find_database()
    expect(page.locator("#warning")).to_be_hidden()


def test_a_server_that_is_away_and_back(new_page: NewPage, fake: Fake) -> None:
    page = opened(new_page, fake)
    heads = page.locator("#heads .head").count()
    fake.up = False
    expect(page.locator("#live")).to_contain_text(re.compile(r"○ last seen .* ago, trying"))
    expect(page.locator("#warning")).to_contain_text("The server does not answer")
    assert page.locator("#heads .head").count() == heads
    fake.up = True
    # Twice the longest pause of its back-off, and more.
    expect(page.locator("#live")).to_contain_text("● live", timeout=40_000)
    expect(page.locator("#warning")).to_be_hidden()


def test_a_reconnect_goes_on_from_the_last_id(new_page: NewPage, fake: Fake) -> None:
    page = opened(new_page, fake)
    assert fake.resumed == 0
    fake.up = False
    expect(page.locator("#live")).to_contain_text("○")
    fake.up = True
    expect(page.locator("#live")).to_contain_text("● live", timeout=40_000)
    assert (fake.resumed, fake.full) == (1, 1)


def test_without_a_place_for_a_stream_it_asks_for_snapshots(new_page: NewPage, fake: Fake) -> None:
    fake.streams = False
    page = opened(new_page, fake)
    before = fake.snapshots
    wait_for(lambda: fake.snapshots > before, 20, "another snapshot")
    expect(page.locator("#live")).to_contain_text("● live")


# --- workflows -----------------------------------------------------------------------------------


def test_search_filters_and_pages(new_page: NewPage, fake: Fake) -> None:
    page = opened(new_page, fake)
    rows = page.locator("#rows tr")
    expect(rows).to_have_count(25)
    first = rows.first.inner_text()
    page.click("#older")
    expect(page.locator("#list-place")).to_contain_text("26 to 50")
    assert rows.first.inner_text() != first
    page.fill("input[name=search]", "scope")
    expect(page.locator("#list-place")).to_contain_text("1 to ")
    wait_for(lambda: all("scope" in t for t in rows.all_inner_texts()), 20, "only scopes")
    page.fill("input[name=search]", "")
    page.select_option("select[name=status]", "SUCCESS")
    wait_for(lambda: all("succeeded" in t for t in rows.all_inner_texts()), 20, "only those that succeeded")
    page.select_option("select[name=source]", "stored")
    page.select_option("select[name=name]", "fibonacci.number")
    wait_for(
        lambda: all("fibonacci.number" in t for t in rows.all_inner_texts()), 20, "stored ones of a name"
    )
    page.click("#older")
    expect(page.locator("#list-place")).to_contain_text("26 to ")


def test_one_application_of_three_is_chosen(new_page: NewPage, fake: Fake) -> None:
    page = opened(new_page, fake)
    choice = page.locator("#application-choice")
    expect(choice).to_be_hidden()
    shops = {fake.world.start_executor("app", application="storefront") for _ in range(2)}
    with fake.world.lock:
        for number, executor_id in enumerate(sorted(shops)):
            item = {
                "workflow_id": f"cart-{number}",
                "name": "checkout",
                "label": "checkout",
                "queue": "carts",
            }
            fake.world.claim(executor_id, item, 600.0)
    expect(choice).to_be_visible()
    expect(page.locator("#sentence")).to_contain_text("2 of storefront live")
    record_picture(page, "three-applications")
    choice.locator("select").select_option("storefront")
    heads = page.locator("#heads .head")
    expect(heads).to_have_count(2)
    assert {head.get_attribute("title") for head in heads.all()} == shops
    expect(page.locator("#sentence")).to_contain_text("2 of storefront live. 2 workflows run, none waits.")
    rows = page.locator("#rows tr")
    expect(rows).to_have_count(2)
    assert all("checkout" in text for text in rows.all_inner_texts())
    expect(page.locator("#sentence")).not_to_contain_text("takeover")
    expect(page.locator(".pulse-head")).to_be_hidden()
    expect(page.locator("#queue-title")).to_have_text("Queues of all applications")
    record_picture(page, "one-application")
    with page.expect_request(lambda request: "application=storefront" in request.url):
        page.select_option("select[name=source]", "stored")
    choice.locator("select").select_option("all")
    expect(heads).not_to_have_count(2)


def test_an_installation_without_a_pulse_has_no_lane_for_it(new_page: NewPage, fake: Fake) -> None:
    page = opened(new_page, fake)
    expect(page.locator(".pulse-head")).to_be_visible()
    fake.world.pulse_seconds = None
    page.reload()
    expect(page.locator(".pulse-head")).to_be_hidden()


def test_a_workflows_own_page(new_page: NewPage, fake: Fake) -> None:
    taken = next(m["workflow_id"] for m in fake.world.moves.values() if m["claimed_at"])
    page = opened(new_page, fake, f"/console/workflows/{taken}")
    expect(page.locator("#workflow-id")).to_have_text(taken)
    expect(page.locator("#attempts li")).to_have_count(2)
    expect(page.locator("#attempts li").first).to_contain_text("lost with its executor")
    expect(page.locator("#tree a[aria-current=page]")).to_have_count(1)
    expect(page.locator("#do-cancel")).to_be_disabled()
    expect(page.locator("#why-cancel")).to_contain_text("nothing to cancel")
    page.click("#tree a >> nth=0")
    expect(page.locator("#workflow-title")).to_have_text("batch")
    page.goto(f"{fake.url}/console/workflows/no-such-one")
    expect(page.locator("#workflow-problem")).to_contain_text("no workflow of this id")
    page.goto(f"{fake.url}/console/workflows/a%E2%80%AEb%C2%9Bc")
    expect(page.locator("#workflow-id")).to_have_text("a\\u202eb\\u009bc")


def test_a_page_says_what_is_waited_for_and_sends_it(new_page: NewPage, fake: Fake) -> None:
    earlier = set(fake.world.bars)  # they may end at any moment
    fake.world.mean_seconds = 500
    fake.world.batch(4)
    until = fake.world.at + 120
    fake.waiting = {
        "kind": "message",
        "subject": "approval",
        "since": iso(fake.world.at),
        "until": iso(until),
    }
    fake.set = [{"key": "progress", **stored({"percent": 50})}, {"key": "<b>", **stored("<i>text</i>")}]
    fake.written = {"lines": [f"line {number}" for number in range(30)]}
    running = wait_for(
        lambda: [
            bar["workflow_id"]
            for key, bar in list(fake.world.bars.items())
            if key not in earlier and bar["ended_at"] is None
        ],
        20,
        "a bar",
    )[0]
    page = opened(new_page, fake, f"/console/workflows/{running}")
    expect(page.locator("#workflow-waiting")).to_have_text(
        re.compile(r"Waiting for message 'approval' until \d\d:\d\d:\d\d")
    )
    expect(page.locator("#workflow-status")).to_contain_text("waiting")
    expect(page.locator("#output")).to_have_text("not yet")
    expect(page.locator("#events")).to_contain_text('{"percent":50}')
    expect(page.locator("#events")).to_contain_text("<i>text</i>")
    expect(page.locator("#streams summary")).to_contain_text("30 values, open")
    page.click("#streams summary")
    expect(page.locator("#streams pre")).to_contain_text("… 10 values before these")
    expect(page.locator("#streams pre")).to_contain_text("29: line 29")
    page.fill("#message", '{"approved": true}')
    page.fill("#message-topic", "approval")
    page.keyboard.press("Enter")
    page.fill("#token", TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("#notices")).to_contain_text("receives it once")
    expect(page.locator("#message")).to_have_value("")
    page.fill("#message", "just text")
    page.fill("#message-topic", "")
    page.click("#do-message")
    wait_for(lambda: len(fake.calls) == 2, 20, "both messages")
    path = f"/workflows/{running}/messages"
    body = {"message": {"approved": True}, "topic": "approval"}
    assert fake.calls == [("POST", path, body), ("POST", path, {"message": "just text"})]
    fake.waiting = None
    expect(page.locator("#workflow-waiting")).to_be_hidden()
    expect(page.locator("#workflow-about")).to_have_text(re.compile(r" · step \d+ for \d"))
    fake.world.cancel(running)
    expect(page.locator("#output")).to_have_text("none")
    expect(page.locator("#do-message")).to_be_disabled()


# --- orders --------------------------------------------------------------------------------------


def test_control_operations_ask_for_the_token_once_and_before_they_destroy(
    new_page: NewPage, fake: Fake
) -> None:
    page = opened(new_page, fake)
    leaver = live(fake.world)[0]
    page.click(f"#heads .head[title='{leaver}']")
    page.click("#executor-drain")
    expect(page.locator("#confirm-dialog")).to_be_visible()
    page.click("#confirm-dialog [data-close]")
    assert fake.calls == []
    page.click(f"#heads .head[title='{leaver}']")
    page.click("#executor-drain")
    page.click("#confirm-yes")
    page.fill("#token", "wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#token-again")).to_be_visible()
    page.fill("#token", TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("#notices")).to_contain_text("drains. Watch its lane")
    assert fake.calls == [("POST", f"/executors/{leaver}/drain", None)]
    expect(page.locator("#admin")).to_have_text("Admin: unlocked")
    # Not asked again, also not after a reload of this tab.
    page.reload()
    other = wait_for(lambda: [e for e in live(fake.world) if e != leaver], 20, "a live worker")[0]
    page.click(f"#heads .head[title='{other}']")
    page.click("#executor-crash")
    page.click("#confirm-yes")
    expect(page.locator("#notices")).to_contain_text(re.compile(r"The crash of .+ is requested"))
    assert fake.calls[-1] == ("POST", f"/executors/{other}/crash", None)


def test_a_crash_is_offered_only_where_chaos_is_on(new_page: NewPage, fake: Fake) -> None:
    fake.world.chaos = False
    page = opened(new_page, fake)
    page.click(f"#heads .head[title='{live(fake.world)[0]}']")
    expect(page.locator("#executor-crash")).to_be_disabled()
    expect(page.locator("#executor-crash-why")).to_contain_text("HOLDFAST_CHAOS")


def test_a_scene_is_started_and_linked(new_page: NewPage, fake: Fake) -> None:
    page = opened(new_page, fake)
    page.click("#start")
    page.fill("form[data-scene=batch] input[name=count]", "7")
    page.click("form[data-scene=batch] button")
    expect(page.locator("#notices")).to_contain_text("Started.")
    body = {"count": 7, "method": "recursive", "sequential": False}
    assert fake.calls == [("POST", "/fibonacci/batches", body)]
    page.click("#notices a")
    expect(page.locator("#workflow-title")).to_have_text("batch")


def test_a_bucket_is_listed(new_page: NewPage, fake: Fake) -> None:
    page = opened(new_page, fake)
    page.click("#start")
    form = "form[data-scene=bucket]"
    assert page.eval_on_selector(f"{form} input[name=bucket]", "input => input.checkValidity()")
    page.fill(f"{form} input[name=bucket]", "No/Bucket")
    assert not page.eval_on_selector(f"{form} input[name=bucket]", "input => input.checkValidity()")
    page.fill(f"{form} input[name=bucket]", "my.bucket-1")
    page.fill(f"{form} input[name=page_size]", "20")
    page.click(f"{form} button")
    expect(page.locator("#notices")).to_contain_text("Started.")
    assert fake.calls == [("POST", "/buckets/my.bucket-1/listing", {"page_size": 20})]


def test_stranded_work_is_adopted(new_page: NewPage, fake: Fake) -> None:
    page = opened(new_page, fake)
    page.evaluate(f"sessionStorage.setItem('holdfast-admin-token', '{TOKEN}')")
    fake.world.stranded = 3
    page.click("#stranded")
    expect(page.locator("#stranded-rows")).to_contain_text("3 workflows (ENQUEUED) of holdfast-worker")
    why = "no live executor listens to the queue old of w. Way out: start it."
    expect(page.locator("#stranded-rows")).to_contain_text(why)
    expect(page.locator("#stranded-rows button")).to_have_count(1)
    page.click("#stranded-rows button")
    page.click("#confirm-yes")
    expect(page.locator("#notices")).to_contain_text("3 workflows adopted by version 0.1.0")
    body = {"application": "holdfast-worker", "from_version": "0.0.9"}
    assert fake.calls == [("POST", "/stranded/adopt", body)]
    expect(page.locator("#trouble")).to_be_hidden()


def test_a_running_workflow_is_cancelled(new_page: NewPage, fake: Fake) -> None:
    scope = fake.world.scope(60)
    page = opened(new_page, fake, f"/console/workflows/{scope}")
    page.evaluate(f"sessionStorage.setItem('holdfast-admin-token', '{TOKEN}')")
    page.click("#do-cancel")
    page.click("#confirm-yes")
    expect(page.locator("#workflow-status")).to_contain_text("cancelled")
    expect(page.locator("#do-resume")).to_be_enabled()


def test_what_has_ended_is_deleted_after_a_question(new_page: NewPage, fake: Fake) -> None:
    scope = fake.world.scope(60)
    page = opened(new_page, fake, f"/console/workflows/{scope}")
    page.evaluate(f"sessionStorage.setItem('holdfast-admin-token', '{TOKEN}')")
    expect(page.locator("#do-delete")).to_be_disabled()
    expect(page.locator("#why-delete")).to_contain_text("only what has ended")
    fake.world.cancel(scope)
    page.check("#delete-children")
    page.click("#do-delete")
    expect(page.locator("#confirm-text")).to_contain_text("This cannot be undone")
    page.click("#confirm-dialog [data-close]")
    assert fake.calls == []
    page.click("#do-delete")
    page.click("#confirm-yes")
    expect(page.locator("#notices")).to_contain_text("1 workflow deleted.")
    expect(page.locator("#workflow-problem")).to_contain_text("no workflow of this id")
    expect(page.locator("#do-delete")).to_be_hidden()
    assert fake.calls == [("DELETE", f"/workflows/{scope}?children=true", None)]


# --- for everyone, everywhere --------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("place", ["overview", "workflow", "dialog", "phone", "away"])
def test_no_serious_violation_of_accessibility(
    new_page: NewPage, fake: Fake, scheme: str, place: str
) -> None:
    fake.world.batch(30)
    size = {"width": 390, "height": 844} if place == "phone" else {"width": 1280, "height": 860}
    taken = next(m["workflow_id"] for m in fake.world.moves.values())
    path = f"/console/workflows/{taken}" if place == "workflow" else "/"
    page = opened(new_page, fake, path, color_scheme=scheme, viewport=size)
    if place == "dialog":
        page.click("#start")
    if place == "workflow":
        expect(page.locator("#attempts li").first).to_be_visible()
    if place == "overview":
        page.click("#twin summary")
        fake.world.kill(live(fake.world)[0])
        expect(page.locator("#heads [data-state=dead]").first).to_be_visible()
    if place == "away":
        fake.up = False
        expect(page.locator("#warning")).to_be_visible()
    results = Axe().run(page).response["violations"]
    serious = [v for v in results if v["impact"] in ("serious", "critical")]
    told = [(v["id"], v["help"], [n["html"][:200] for n in v["nodes"]][:3]) for v in serious]
    assert told == []


def test_a_phone_shows_lanes_as_a_list_and_never_scrolls_sideways(new_page: NewPage, fake: Fake) -> None:
    taken = next(m["workflow_id"] for m in fake.world.moves.values())
    for path in ("/", f"/console/workflows/{taken}"):
        page = opened(new_page, fake, path, viewport={"width": 360, "height": 740})
        if path == "/":
            expect(page.locator("#lanes")).to_be_hidden()
            victim = live(fake.world)[0]
            fake.world.kill(victim)
            item = page.locator("#phone li", has=page.locator(f"[title='{victim}']"))
            expect(item).to_contain_text("lock lost, taken over in")
        else:
            expect(page.locator("#attempts li").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_light_and_dark_by_system_and_by_hand(new_page: NewPage, fake: Fake) -> None:
    page = opened(new_page, fake, color_scheme="dark")
    shade = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(shade)
    page.click("#theme")
    assert page.evaluate(shade) != dark
    page.reload()
    assert page.evaluate(shade) != dark
    page.click("#theme")
    assert page.evaluate(shade) == dark


def test_less_motion_moves_once_a_second_at_most(new_page: NewPage) -> None:
    world = World()
    world.pulses_on = False
    with Fake(world) as fake:
        page = opened(new_page, fake, reduced_motion="reduce")
        page.click(".segments label >> nth=0")
        fake.up = False  # no news: only time would move the picture
        expect(page.locator("#live")).to_contain_text("○")
        frames = "document.querySelector('#timeline').frames"
        before = page.evaluate(frames)
        began = time.monotonic()
        page.wait_for_timeout(2500)
        drawn = page.evaluate(frames) - before
        assert drawn <= (time.monotonic() - began) * 1 + 2


@pytest.mark.timing
def test_smooth_with_ten_thousand_workflows_on_fifty_executors(new_page: NewPage) -> None:
    with Fake(crowd(), bars_served=10_000) as fake:
        page = opened(new_page, fake)
        expect(page.locator("#heads .head")).to_have_count(51)
        page.click(".segments label >> nth=0")
        drawn = wait_for(lambda: page.get_attribute("#timeline", "data-frame-ms"), 30, "120 frames")
        median, worst = map(float, drawn.split())
        record("console_frame_ms_median", median)
        record("console_frame_ms_worst_of_120", worst)
        # 60 frames a second leave 16.7 ms; the median must leave room for the rest of the page.
        assert median < 8
        # Generous: the figures are in the report, and a machine that is shared must not make this red.
        memory = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
        assert memory < 120
        page.click(".segments label >> nth=1")
        page.evaluate("document.querySelector('#lanes').scrollTop = 600")
        assert wait_for(lambda: seen(page, "bar"), 20, "bars")
