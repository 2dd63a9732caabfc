"""Releases of one small user-defined module, and a stack that moves from one to the next.

Processes import it through a link that a release changes, so processes that start later have the new code.
That has the effect of a new image without building one.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.native_stack import NativeStack
from tests.support.stack import Member, wait_for

_HEAD = '''
import time
from pathlib import Path

from holdfast.durable.registry import Queue, patch_over, patched, register, step, workflow

RELEASE = "{release}"
HERE = Path({here!r})


@step("parcels.label")
def label() -> str:
    return f"label {{RELEASE}}"


@step("parcels.insure")
def insure() -> str:
    return f"insure {{RELEASE}}"


@step("parcels.deliver")
def deliver(parcel: str) -> str:
    """Takes as long as the test wants it to."""
    while not (HERE / parcel).exists():
        time.sleep(0.02)
    return f"deliver {{RELEASE}}"
'''

_SEND = """

@workflow("parcels.send")
def send(parcel: str) -> list[str]:
    return [{steps}, deliver(parcel)]


register(Queue("parcels", [send], at_once=8))
"""

_RETURN = """

@workflow("parcels.take_back")
def take_back(parcel: str) -> str:
    return label()


register(Queue("returns", [take_back], at_once=8))
"""

PLAIN = "label()"
PATCHED = '*([insure()] if patched("insured") else []), label()'
OVER = '*[patch_over("insured"), insure()][1:], label()'
NAKED = "insure(), label()"
"""The steps of a release with one more step and no patch marker."""


_BESIDE = """

from holdfast.durable.registry import Schedule


@workflow("parcels.count")
def count(at: str) -> str:
    return RELEASE


@workflow("parcels.sort")
def sort(at: str) -> str:
    return RELEASE


{added}


register(
    Queue("counts", [count, sort, {names}], at_once={at_once}),
    schedules=[
        Schedule("{schedule}", {scheduled}, "* * * * * *"),
        Schedule("yearly-parcels", count, "0 0 {hour} 1 1 *"),
    ],
)
"""

OLD_CODE = _BESIDE.format(
    added="""@workflow("parcels.weigh")
def weigh(parcel: str) -> str:
    return RELEASE""",
    names="weigh",
    schedule="parcels-old",
    scheduled="count",
    at_once=8,
    hour=3,
)
NEW_CODE = _BESIDE.format(
    added="""@workflow("parcels.weigh")
def weigh(parcel: str, unit: str) -> str:
    return RELEASE


@workflow("parcels.stamp")
def stamp(parcel: str) -> str:
    return RELEASE""",
    names="weigh, stamp",
    schedule="parcels-new",
    scheduled="sort",
    at_once=9,
    hour=4,
)
"""One version of the durable code before and after six changes: a new workflow on a queue, a new schedule of
a workflow, a schedule removed, a parameter added without a default, another limit, other times."""


class Releases:
    """Directories of releases, and the link to the present one."""

    def __init__(self, here: Path) -> None:
        self._here = here
        self.link = here / "current"
        (here / "delivered").mkdir(parents=True)

    def settings(self) -> dict[str, str]:
        """Returns the settings with which a stack's processes import the present release."""
        return {"HOLDFAST_MODULES": "parcels", "PYTHONPATH": str(self.link)}

    def write(self, release: str, steps: str = PLAIN, *, returns: bool = False, more: str = "") -> Path:
        """Writes a new release and returns its directory."""
        directory = self._here / f"release-{release}"
        directory.mkdir()
        head = _HEAD.format(release=release, here=str(self._here / "delivered"))
        text = head + _SEND.format(steps=steps) + (_RETURN if returns else "") + more
        (directory / "parcels.py").write_text(text, "utf-8")
        return directory

    def publish(self, directory: Path) -> None:
        """Publishes a release: processes that start from now on import it."""
        new = self._here / "new"
        new.symlink_to(directory)
        new.replace(self.link)

    def deliver(self, *parcels: str) -> None:
        """Lets the last step of these parcels end."""
        for parcel in parcels:
            (self._here / "delivered" / parcel).touch()


def send(stack: NativeStack, parcel: str, url: str | None = None) -> str:
    """Starts a workflow with the parcel's name as its key. Returns its id."""
    options = {"json": {"workflow": "parcels.send", "arguments": {"parcel": parcel}}}
    answer = stack.http.post(
        f"{url or stack.url}/workflows", headers={**stack.admin(), "Idempotency-Key": parcel}, **options
    )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["workflow_id"])


def at_the_door(stack: NativeStack, *workflow_ids: str, steps: int = 1) -> None:
    """Waits until each workflow has recorded ``steps`` steps and waits in its last one."""

    def there() -> bool:
        return all(
            len(stack.get(f"/workflows/{each}/steps")["steps"]) >= steps
            and stack.get(f"/workflows/{each}")["status"] == "PENDING"
            for each in workflow_ids
        )

    wait_for(there, 20, f"{len(workflow_ids)} workflows in their last step")


def roll(stack: NativeStack, member: Member) -> None:
    """Stops a process in order and waits until its successor, which the supervisor starts, is ready."""
    stack.stop(member)
    assert stack.exited(member, 30).code == 0
    stack.members(member.role, stack.worker_count if member.role == "worker" else 1)
