"""Rolling upgrades with work in flight, by kind of change to durable code (docs/operate/upgrading.md)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.installations.ports import free_port
from tests.support import releases
from tests.support.native_stack import NativeStack
from tests.support.releases import Releases, at_the_door, roll, send
from tests.support.stack import running_stack, wait_for


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    """The releases, of which the first is there."""
    made = Releases(tmp_path_factory.mktemp("releases"))
    made.publish(made.write("A"))
    return made


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, made: Releases) -> Iterator[NativeStack]:
    """One stack for the module, which goes from release to release. Its drains end at once."""
    started = NativeStack(
        tmp_path_factory.mktemp("upgrades"),
        **made.settings(),
        HOLDFAST_DRAIN_SECONDS="0.3",
        HOLDFAST_STOP_GRACE_SECONDS="8",
    )
    with running_stack(started):
        yield started


def upgrade(stack: NativeStack, made: Releases, directory: Path) -> None:
    """All of it at once, where what is asked is only how the new code goes on."""
    made.publish(directory)
    members = [*stack.workers(), stack.api()]
    for member in members:
        stack.stop(member)
    assert [stack.exited(member, 30).code for member in members] == [0, 0, 0]
    stack.workers()


def output(stack: NativeStack, workflow_id: str) -> Any:
    return stack.finished(workflow_id, 20)["output"]


def test_unchanged_durable_code_strands_nothing(stack: NativeStack, made: Releases) -> None:
    ids = [send(stack, f"unchanged-{n}") for n in range(6)]
    at_the_door(stack, *ids)
    made.publish(made.write("B"))
    for member in [*stack.workers(), stack.api()]:
        roll(stack, member)
    assert stack.get("/stranded")["stranded"] == []
    ids.append(send(stack, "unchanged-new"))
    made.deliver(*(f"unchanged-{n}" for n in range(6)), "unchanged-new")
    results = [output(stack, each) for each in ids]
    assert results == [["label A", "deliver B"]] * 6 + [["label B", "deliver B"]]
    moves = stack.handovers(ids)
    assert {move["kind"] for move in moves} == {"handover"}, "nobody was taken for dead"
    assert {move["workflow_id"] for move in moves} == set(ids[:6])


def test_a_patch_changes_what_has_not_come_this_far(stack: NativeStack, made: Releases) -> None:
    old = send(stack, "before-the-patch")
    at_the_door(stack, old)
    upgrade(stack, made, made.write("C", releases.PATCHED))
    new = send(stack, "after-the-patch")
    at_the_door(stack, new, steps=3)
    made.deliver("before-the-patch")
    assert output(stack, old) == ["label B", "deliver C"]

    # Nothing is left of the old way: the next release need not ask any more.
    upgrade(stack, made, made.write("D", releases.OVER))
    newest = send(stack, "after-all")
    made.deliver("after-the-patch", "after-all")
    assert output(stack, new) == ["insure C", "label C", "deliver D"]
    assert output(stack, newest) == ["insure D", "label D", "deliver D"]


def test_a_step_more_without_a_patch_ends_what_runs(stack: NativeStack, made: Releases) -> None:
    upgrade(stack, made, made.write("E"))
    started = send(stack, "unpatched")
    at_the_door(stack, started)
    upgrade(stack, made, made.write("F", releases.NAKED))
    ended = wait_for(
        lambda: (w := stack.get(f"/workflows/{started}"))["status"] == "ERROR" and w, 20, "it fails"
    )
    assert "parcels.label" in ended["error"]
    assert "parcels.insure" in ended["error"]


def test_a_new_queue_is_left_to_those_who_know_it(stack: NativeStack, made: Releases) -> None:
    made.publish(made.write("G", releases.NAKED, returns=True))
    roll(stack, stack.api())
    older, _ = stack.workers()
    roll(stack, stack.workers()[1])
    newer = next(m for m in stack.workers() if m.executor_id != older.executor_id)
    body = {"workflow": "parcels.take_back", "arguments": {"parcel": "back"}}
    ids = [stack.post("/workflows", body)["workflow_id"] for _ in range(12)]
    for each in ids:
        done = stack.finished(each, 20)
        assert (done["executor_id"], done["attempts"]) == (newer.executor_id, 1)


def test_old_and_new_code_share_a_version(stack: NativeStack, made: Releases) -> None:
    """Each process claims what its code can run. None pauses a schedule that live code declares."""
    old_code = made.write("M", releases.NAKED, returns=True, more=releases.OLD_CODE)
    upgrade(stack, made, old_code)
    made.publish(made.write("N", releases.NAKED, returns=True, more=releases.NEW_CODE))

    def declared() -> tuple[str, int]:
        (limit,) = stack.query("SELECT worker_concurrency FROM dbos.queues WHERE name = 'counts'")
        (yearly,) = (row for row in stack.get("/schedules")["schedules"] if row["name"] == "yearly-parcels")
        return yearly["cron"], limit["worker_concurrency"]

    assert declared() == ("0 0 3 1 1 *", 8)
    roll(stack, stack.api())
    roll(stack, stack.workers()[1])
    # An old worker that starts beside the new one, and stops again later: nothing changes for the new code.
    before = set(stack.executors())
    stack.spawn("services.worker", PYTHONPATH=str(old_code))
    (spawned,) = wait_for(lambda: set(stack.executors()) - before, 30, "one more old worker is live")
    assert declared() == ("0 0 4 1 1 *", 9), "the newer code's definitions apply"

    stamped, weighed = (
        [stack.post("/workflows", {"workflow": name, "arguments": given})["workflow_id"] for _ in range(12)]
        for name, given in (
            ("parcels.stamp", {"parcel": "new"}),
            ("parcels.weigh", {"parcel": "new", "unit": "kg"}),
        )
    )
    for each in (*stamped, *weighed):
        done = stack.finished(each, 20)
        assert (done["output"], done["attempts"]) == ("N", 1)

    def ticks(schedule: str, workflow: str) -> list[Any]:
        found = stack.get(f"/workflows?name={workflow}&limit=200")["workflows"]
        return [row for row in found if row["workflow_id"].startswith(f"sched-{schedule}-")]

    def paused() -> dict[str, bool]:
        rows = stack.get("/schedules")["schedules"]
        return {row["name"]: row["paused"] for row in rows if row["name"].startswith("parcels-")}

    def ran(schedule: str, workflow: str) -> int:
        found = ticks(schedule, workflow)
        assert {row["status"] for row in found} <= {"ENQUEUED", "PENDING", "SUCCESS"}
        return sum(row["status"] == "SUCCESS" for row in found)

    wait_for(lambda: ran("parcels-new", "parcels.sort") >= 4, 30, "the new schedule runs")
    wait_for(lambda: ran("parcels-old", "parcels.count") >= 4, 30, "old code still declares the other one")
    assert paused() == {"parcels-old": False, "parcels-new": False}

    # The last old code goes: the removed schedule ends, and the new one goes on.
    stack.post(f"/executors/{spawned}/drain", {})
    roll(stack, stack.workers()[0])
    roll(stack, stack.workers()[1])
    wait_for(lambda: paused() == {"parcels-old": True, "parcels-new": False}, 40, "the removed one is paused")
    so_far = ran("parcels-new", "parcels.sort")
    wait_for(lambda: ran("parcels-new", "parcels.sort") > so_far, 30, "the new schedule goes on")
    # Ticks that old code fired last are run by the new code, which no longer declares their schedule.
    wait_for(lambda: not stack.get("/stranded")["stranded"], 20, "nothing is left")
    assert {row["status"] for row in ticks("parcels-old", "parcels.count")} == {"SUCCESS"}


def end_ticks_of_earlier_code(stack: NativeStack) -> None:
    """Cancels the ticks that are left on the queue of a schedule that no code has any more."""
    wait_for(
        lambda: all(
            row["paused"]
            for row in stack.get("/schedules")["schedules"]
            if row["name"].startswith("parcels-")
        ),
        40,
        "no live code declares the schedules",
    )
    for name in ("parcels.sort", "parcels.count"):
        for row in stack.get(f"/workflows?status=ENQUEUED&name={name}")["workflows"]:
            stack.post(f"/workflows/{row['workflow_id']}/cancel", {})


def test_an_incompatible_change_keeps_versions_apart(stack: NativeStack, made: Releases) -> None:
    """Version 2 runs; version 3 comes beside it, and version 2 goes before its work is done."""
    upgrade(stack, made, made.write("H"))
    end_ticks_of_earlier_code(stack)
    old_code = made.link.resolve()
    first, second = stack.workers()
    ids = [send(stack, f"old-{n}") for n in range(4)]
    at_the_door(stack, *ids)

    new = {"HOLDFAST_APPLICATION_VERSION": "3", "PYTHONPATH": str(made.write("I", releases.NAKED))}
    port = free_port()
    stack.spawn("services.worker", **new)
    token = str(stack.home / "secrets" / "api" / "admin_token")
    stack.spawn("services.api", **new, HOLDFAST_API_PORT=str(port), HOLDFAST_ADMIN_TOKEN_FILE=token)
    url = f"http://127.0.0.1:{port}"
    wait_for(lambda: stack.http.get(f"{url}/readyz").status_code == 200, 30, "the new API is ready")
    (newcomer,) = wait_for(
        lambda: [
            e
            for e, row in stack.executors().items()
            if row["role"] == "worker"
            and row["state"] == "live"
            and e not in (first.executor_id, second.executor_id)
        ],
        30,
        "the new worker is live",
    )
    made.deliver("new-0")
    fresh = send(stack, "new-0", url)
    done = stack.finished(fresh, 20)
    assert (done["executor_id"], done["output"]) == (newcomer, ["insure I", "label I", "deliver I"])

    # Old executors drain what is theirs: to each other, never to the new one.
    stack.hold(True)
    stack.stop(first)
    wait_for(
        lambda: all(stack.get(f"/workflows/{i}")["executor_id"] == second.executor_id for i in ids),
        20,
        "the other old worker has all of it",
    )
    made.deliver("old-0")
    assert output(stack, ids[0]) == ["label H", "deliver H"]
    end_ticks_of_earlier_code(stack)
    assert stack.get("/stranded")["stranded"] == []

    # The last of them goes: what it leaves is stranded, told, and not touched.
    stack.stop(second)
    stranded = wait_for(lambda: stack.get("/stranded")["stranded"], 20, "stranded work is listed")
    assert [(row["application_version"], row["workflows"]) for row in stranded] == [("worker-2", 3)]
    shown = stack.http.get(f"{url}/metrics").text
    labels = 'application_version="worker-2",reason="version",status="ENQUEUED"'
    assert f"holdfast_stranded_workflows{{{labels}}} 3.0" in shown

    # Adopting says that the new code can continue it. It cannot, and fails where it differs.
    adopted = stack.http.post(f"{url}/workflows/{ids[1]}/adopt", headers=stack.admin())
    assert (adopted.status_code, adopted.json()) == (202, {"adopted": 1, "to_version": "worker-3"})
    failed = wait_for(
        lambda: (w := stack.get(f"/workflows/{ids[1]}"))["status"] == "ERROR" and w, 20, "it differs"
    )
    assert failed["executor_id"] == newcomer

    # An old worker that is started once more finishes the rest.
    made.deliver("old-2", "old-3")
    stack.spawn("services.worker", PYTHONPATH=str(old_code))
    assert [output(stack, each) for each in ids[2:]] == [["label H", "deliver H"]] * 2
    assert stack.get("/stranded")["stranded"] == []
