"""A module of one's own inside a worker: replays, children, schedules that are gone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dbos import DBOS, DBOSClient, SetWorkflowID

from holdfast.durable import registry
from holdfast.installations.log_lines import failed_start
from tests.support.database import Database, wait_until
from tests.support.engines import client, worker_process
from tests.support.own import forgotten
from tests.support.stack import ROOT, clean_environment

MODULE = """
import os
import threading
from dataclasses import dataclass
from holdfast.durable.registry import Queue, Schedule, idempotency_key, register, step, workflow

BODIES = []
KEYS = []
FAIL = [1]
FIRST_ATTEMPT = threading.Event()
LAST_ATTEMPT = threading.Event()


class Refused(Exception):
    pass


@dataclass(frozen=True)
class Paid:
    cents: int
    parts: tuple[int, str]


@step("t.pay", errors=[Refused])
def pay(cents: int) -> Paid:
    BODIES.append(cents)
    if cents < 0:
        raise Refused("never less than nothing")
    return Paid(cents, (1, "a"))


@step("t.flaky", attempts=2, wait_seconds=0)
def flaky() -> str:
    KEYS.append(idempotency_key())
    if FAIL:
        FAIL.pop()
        raise OSError("try again")
    return "done"


@step("t.call", errors=[OSError, ConnectionError])
def call() -> str:
    BODIES.append("call")
    raise ConnectionRefusedError("nobody there")


@step("t.list")
def names() -> list[str]:
    return [os.fsdecode(b"caf\\xe9")]


@workflow("t.odd")
def odd() -> list[str]:
    try:
        call()
    except ConnectionError as error:
        told = f"{type(error).__name__}: {error}"
    return [told, *names()]


@step("t.tired", attempts=2, wait_seconds=0)
def tired() -> str:
    BODIES.append("tired")
    raise OSError("carrier: 503")


@step("t.overlap", attempts=2, wait_seconds=0)
def overlap(first: bool) -> str:
    KEYS.append(f"overlap {first}")
    if KEYS.count(f"overlap {first}") == 1:
        # The first workflow's first attempt fails while the other one's last runs, which began later.
        if first:
            FIRST_ATTEMPT.set()
        assert (LAST_ATTEMPT if first else FIRST_ATTEMPT).wait(10)
        raise OSError("try again")
    if not first:
        LAST_ATTEMPT.set()
        while KEYS.count("overlap True") < 2 and LAST_ATTEMPT.is_set():
            threading.Event().wait(0.01)
    return "done"


@workflow("t.overlapping")
def overlapping(first: bool) -> str:
    try:
        return overlap(first)
    finally:
        LAST_ATTEMPT.clear()


@workflow("t.give_up")
def give_up() -> str:
    return tired()


@workflow("t.buy")
def buy(cents: int) -> dict[str, str]:
    paid = pay(cents)
    try:
        pay(-1)
    except Refused as error:
        told = f"{type(error).__name__}: {error}"
    return {"parts": type(paid.parts).__name__, "told": told, "flaky": flaky()}


@workflow("t.shop")
def shop(many: int) -> list[str]:
    return [child.result()["parts"] for child in [buy.enqueue(n) for n in range(many)]]


@workflow("t.lost")
def lost() -> str:
    return buy.enqueue(1).workflow_id


@workflow("t.tick")
def tick(at: str) -> str:
    return at


register(
    Queue("t-buys", [buy]),
    Queue("t-losts", [lost, odd, give_up, overlapping], at_once_everywhere=2),
    Queue("t-shops", [shop], parents=True),
    Queue("t-ticks", [tick]),
    schedules=[Schedule("t-every", tick, "* * * * * *")],
)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module, loaded by a worker of the test's own process."""
    (tmp_path / "own_shop.py").write_text(MODULE, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with forgotten():
        yield lambda: sys.modules["own_shop"]
    sys.modules.pop("own_shop", None)


def ended(outside: DBOSClient, workflow_id: str, status: str = "SUCCESS") -> Any:
    wait_until(
        lambda: outside.list_workflows(workflow_ids=[workflow_id])[0].status == status,
        f"{workflow_id} becomes {status}",
        seconds=15,
    )
    return outside.list_workflows(workflow_ids=[workflow_id])[0]


def test_a_worker_runs_it(database: Database, module: Any) -> None:
    outside = client(database, role="api")
    with worker_process(database, modules="own_shop") as process:
        version = process.identity.version

        def start(name: str, *args: Any) -> str:
            queue = registry.startable()[name].queue
            assert queue is not None
            options = {"workflow_name": name, "queue_name": queue.name, "app_version": version}
            return outside.enqueue(options, *args).workflow_id  # type: ignore[arg-type]

        told = {"parts": "tuple", "told": "Refused: never less than nothing", "flaky": "done"}
        first = start("t.buy", 7)
        assert ended(outside, first).output == told
        assert module().BODIES == [7, -1], "an answer in `errors` is not tried again"
        assert [f"{first}:3"] * 2 == module().KEYS, "the same key at every attempt"

        limits = "SELECT concurrency, worker_concurrency FROM dbos.queues WHERE name = 't-losts'"
        assert database.rows(limits) == [{"concurrency": 2, "worker_concurrency": 2}]

        # A replay reads what is recorded, and the workflow sees the same types and the same error.
        with SetWorkflowID("replayed"):
            outside.fork_workflow(first, 3, application_version=version, queue_name="t-buys")
        assert ended(outside, "replayed").output == told
        assert module().BODIES == [7, -1]

        # A subclass of what is named, and half a surrogate pair, which PostgreSQL refuses as it is.
        odd = start("t.odd")
        with SetWorkflowID("odd-again"):
            ended(outside, odd)
            outside.fork_workflow(odd, 3, application_version=version, queue_name="t-losts")
        for workflow_id in (odd, "odd-again"):
            assert ended(outside, workflow_id).output == ["ConnectionError: nobody there", "caf\udce9"]
        assert module().BODIES.count("call") == 1

        # The last attempt's own error, not that the attempts are used up.
        failed = ended(outside, start("t.give_up"), "ERROR")
        assert (failed.error.name, str(failed.error)) == ("OSError", "carrier: 503")
        assert module().BODIES.count("tired") == 2

        # Two workflows in the same step at the same time: each has its own attempts.
        for overlapping in [start("t.overlapping", first) for first in (True, False)]:
            assert ended(outside, overlapping).output == "done"

        assert ended(outside, start("t.shop", 3)).output == ["tuple"] * 3
        wrong = ended(outside, start("t.buy", "seven"), "ERROR")
        assert "valid integer" in str(wrong.error)
        assert "parents=True" in str(ended(outside, start("t.lost"), "ERROR").error)
        wait_until(
            lambda: any(
                row.output and row.output.startswith("20")
                for row in outside.list_workflows(name="t.tick", status="SUCCESS", limit=1)
            ),
            "a tick ran, and was told its time",
            seconds=15,
        )
        assert {s["schedule_name"] for s in DBOS.list_schedules()} == {"pulse", "purge", "t-every"}
    outside.destroy()


def test_a_schedule_rests_while_no_module_names_it(database: Database, module: Any) -> None:
    def active() -> set[str]:
        return {schedule["schedule_name"] for schedule in DBOS.list_schedules(status="ACTIVE")}

    with worker_process(database, modules="own_shop"):
        assert active() == {"pulse", "purge", "t-every"}
    with forgotten(), worker_process(database):
        wait_until(lambda: active() == {"pulse", "purge"}, "it is paused")
    with worker_process(database, modules="own_shop"):
        assert active() == {"pulse", "purge", "t-every"}


@pytest.mark.parametrize(
    ("text", "action", "message"),
    [
        (None, "executor.refused", "does not start: HOLDFAST_MODULES: there is no module t_module"),
        (
            "raise OSError('no licences')",
            "executor.failed",
            "HOLDFAST_MODULES: t_module cannot be imported: OSError: no licences (t_module.py, line 1)",
        ),
    ],
    ids=["final", "of the moment"],
)
def test_a_module_that_fails_ends_the_start_with_a_sentence(
    tmp_path: Path, text: str | None, action: str, message: str
) -> None:
    if text is not None:
        (tmp_path / "t_module.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "services.worker"],
        cwd=ROOT,
        env=clean_environment(
            HOLDFAST_MODULES="t_module", HOLDFAST_WORKER_PORT="0", PYTHONPATH=str(tmp_path)
        ),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["action"] == action
    assert last["message"].startswith(message)
    assert failed_start(done.stdout).is_final == (text is None)
    assert failed_start(done.stdout).cause.startswith(message.removeprefix("does not start: "))
    assert "Traceback" not in done.stderr
    assert ("Traceback" in done.stdout) == (text is not None)
