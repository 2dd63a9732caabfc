"""Steps of one's own in a worker: their timeouts, their ends and their values."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dbos import SetWorkflowID

from holdfast.durable import registry
from holdfast.process.process import Process
from tests.support.database import Database, wait_until
from tests.support.engines import client, worker_process
from tests.support.own import forgotten

MODULE = """
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from dbos import DBOS
from holdfast.durable.registry import Queue, StepTimeout, idempotency_key, register, step, workflow

OUT = Path(os.environ["ODD_OUT"])


def mark(what, more=""):
    with (OUT / what).open("a") as file:
        file.write(f"{os.getpid()} {DBOS.workflow_id} {more}\\n")


@step("t.match", timeout_seconds=0.6, attempts=2, wait_seconds=0)
def match(length: int) -> bool:
    mark("match", subprocess.Popen(["sleep", "300"]).pid)
    return re.match(r"(x+x+)+y", "x" * length) is not None


@workflow("t.hog")
def hog(length: int) -> str:
    try:
        match(length)
    except StepTimeout as error:
        told = f"{type(error).__name__}: {error}"
    return f"{told} {quick({1: b'a'})!r}"


@step("t.quick", timeout_seconds=20)
def quick(value: dict[int, bytes]) -> dict[int, bytes]:
    mark("quick", idempotency_key())
    return value | {2: b"\\xff"}


@step("t.long", timeout_seconds=60)
def long() -> None:
    mark("long", subprocess.Popen(["sleep", "300"]).pid)
    while True:
        pass


@workflow("t.endless")
def endless() -> None:
    long()


@step("t.leave", timeout_seconds=20, attempts=3)
def leave() -> None:
    mark("leave")
    sys.exit(3)


@step("t.leave_here", attempts=3)
def leave_here() -> None:
    mark("leave_here")
    sys.exit(4)


@step("t.die", timeout_seconds=20, attempts=2, wait_seconds=0)
def die() -> None:
    mark("die")
    os._exit(5)


class Refused(Exception):
    pass


class OddRefused(Refused):
    def __init__(self, code, more):
        super().__init__(f"code {code}")


@step("t.refuse", timeout_seconds=20, attempts=3, wait_seconds=0, errors=[Refused])
def refuse() -> None:
    mark("refuse")
    raise OddRefused(5, 6)


@workflow("t.leaving")
def leaving(how: str) -> None:
    {"leave": leave, "leave_here": leave_here, "die": die, "refuse": refuse}[how]()


@step("t.picture", attempts=3, wait_seconds=0)
def picture() -> bytes:
    mark("picture")
    return b"\\xff\\xd8\\xff\\xe0"


@step("t.score", attempts=3, wait_seconds=0)
def score() -> dict[str, Any]:
    return {"mean": float("nan"), "best": float("inf"), "pair": (1, {2})}


@workflow("t.values")
def values() -> list[str]:
    return [str(len(picture())), *(repr(value) for value in score().values())]


@step("t.object", attempts=3, wait_seconds=0)
def made() -> Any:
    mark("object")
    return [object()]


@workflow("t.unstorable")
def unstorable() -> None:
    made()


register(Queue("t-odd", [hog, endless, leaving, values, unstorable], at_once=4))
"""


class Odd:
    """A worker that runs the module, and what its steps marked."""

    def __init__(self, process: Process, database: Database, out: Path) -> None:
        self.process, self.database, self.out = process, database, out
        self.outside = client(database, role="api")

    def start(self, name: str, *args: Any, workflow_id: str) -> None:
        version = self.process.identity.version
        self.outside.enqueue(
            {
                "workflow_name": name,
                "queue_name": "t-odd",
                "app_version": version,
                "workflow_id": workflow_id,
            },
            *args,
        )

    def row(self, workflow_id: str) -> Any:
        return self.outside.list_workflows(workflow_ids=[workflow_id])[0]

    def ended(self, workflow_id: str, status: str) -> Any:
        wait_until(lambda: self.row(workflow_id).status == status, f"{workflow_id} {status}", seconds=20)
        return self.row(workflow_id)

    def again(self, workflow_id: str, step: int) -> Any:
        version = self.process.identity.version
        with SetWorkflowID(f"{workflow_id}-again"):
            self.outside.fork_workflow(workflow_id, step, application_version=version, queue_name="t-odd")
        return self.ended(f"{workflow_id}-again", "SUCCESS")

    def marks(self, what: str) -> list[list[str]]:
        file = self.out / what
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []

    def gone(self, what: str) -> None:
        pids = [pid for mark in self.marks(what) for pid in (mark[0], mark[2])]
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "all are gone", seconds=3)


@pytest.fixture(scope="module")
def odd(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Odd]:
    out = tmp_path_factory.mktemp("odd")
    (out / "odd_steps.py").write_text(MODULE, "utf-8")
    with pytest.MonkeyPatch.context() as patch, forgotten(), Database.lent(server) as database:
        patch.syspath_prepend(str(out))
        patch.setenv("ODD_OUT", str(out))
        with worker_process(database, modules="odd_steps") as process:
            made = Odd(process, database, out)
            yield made
            made.outside.destroy()
    sys.modules.pop("odd_steps", None)


def test_a_step_that_hangs_in_c_is_killed_at_its_timeout(odd: Odd) -> None:
    odd.start("t.hog", 64, workflow_id="hog")
    told = "StepTimeout: The step took longer than 0.6 s, and its process was killed. {1: b'a', 2: b'\\xff'}"
    assert odd.ended("hog", "SUCCESS").output == told
    assert len(odd.marks("match")) == 2, "both attempts"
    odd.gone("match")
    [mark] = odd.marks("quick")
    assert mark[1:] == ["hog", "hog:2"], "the process knows for whom it runs"
    assert odd.again("hog", 3).output == told
    assert len(odd.marks("match")) == 2


def test_a_cancel_kills_it(odd: Odd) -> None:
    odd.start("t.endless", workflow_id="endless")
    wait_until(lambda: odd.marks("long"), "it runs", seconds=20)
    odd.outside.cancel_workflow("endless")
    wait_until(lambda: "endless" not in odd.process.active(), "its slot is free", seconds=5)
    odd.gone("long")
    assert odd.outside.list_workflow_steps("endless") == [], "resumed, it runs again"


@pytest.mark.parametrize(
    ("how", "name", "text", "runs"),
    [
        ("leave", "SystemExit", "3", 1),
        ("leave_here", "SystemExit", "4", 1),
        ("die", "StepProcessDied", "exit code 5", 2),
        ("refuse", "Refused", "code 5", 1),
    ],
)
def test_every_end_of_it_is_an_outcome(odd: Odd, how: str, name: str, text: str, runs: int) -> None:
    odd.start("t.leaving", how, workflow_id=how)
    row = odd.ended(how, "ERROR")
    assert (row.error.name, text in str(row.error)) == (name, True)
    assert len(odd.marks(how)) == runs


def test_values_of_steps_come_back(odd: Odd) -> None:
    odd.start("t.values", workflow_id="values")
    expected = ["4", "nan", "inf", "(1, {2})"]
    assert odd.ended("values", "SUCCESS").output == expected
    assert odd.again("values", 3).output == expected
    assert len(odd.marks("picture")) == 1


def test_or_end_the_step_once(odd: Odd) -> None:
    odd.start("t.unstorable", workflow_id="unstorable")
    row = odd.ended("unstorable", "ERROR")
    assert (row.error.name, "type object cannot be stored" in str(row.error)) == ("UnstorableValue", True)
    assert len(odd.marks("object")) == 1


def test_it_is_a_plain_function_elsewhere(odd: Odd) -> None:
    assert sys.modules["odd_steps"].match(3) is False
    assert registry.step_names()
