"""README.md and the first steps, followed word for word on plain processes: answers are as shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.native_stack import NativeStack
from tests.support.stack import ROOT, clean_environment, running_stack, wait_for

PAGES = ["README.md", "docs/start/first-steps.md"]
_ID = re.compile(r"\b([a-z][a-z-]*)-[0-9a-f]{4,}…")


def steps(page: str) -> list[tuple[str, str]]:
    """Returns the commands of a page's console blocks, each with the output that the page shows."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((re.sub(r"\s+# .*", "", command), output))
    return found


class Reader:
    """Types what a page says, with the ids and pids of the stack in front of it."""

    def __init__(self, stack: NativeStack) -> None:
        self._stack = stack
        self._ids: dict[str, str] = {}

    def _pid(self, role: str) -> str:
        """Returns the pid of a live process of that role, as a reader finds it in the list of executors."""
        rows = self._stack.get("/executors")["executors"]
        return str(next(row["pid"] for row in rows if (row["role"], row["state"]) == (role, "live")))

    def _typed(self, text: str) -> str:
        text = _ID.sub(lambda found: self._ids.get(found[1], found[0]), text)
        text = text.replace("localhost:8000", self._stack.url.removeprefix("http://"))
        text = text.replace(".holdfast/", f"{self._stack.home}/")
        for role in ("worker", "api"):
            if f"{role.upper()}_PID" in text:
                text = text.replace(f"{role.upper()}_PID", self._pid(role))
        return text.replace(".venv/bin/holdfast", f"{sys.executable} -m holdfast.cli.main")

    def follow(self, command: str, shown: str) -> None:
        """Runs a command and compares its output with what the page shows; `…` stands for anything."""
        if command == "kill -9 API_PID":
            self._wait_for_a_step()
        output = self._output(command)
        for _ in range(5):  # a busy machine needs longer than the page's `wait`, and the reader repeats it
            if "?wait=" not in command or self._missing(shown, output) is None:
                break
            output = self._output(command)
        missing = self._missing(shown, output)
        assert missing is None, f"{command} shows no {missing!r} there: {output[:3000]}"

    def _output(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", self._typed(command)],
            cwd=ROOT,
            env=clean_environment(HOLDFAST_HOME=str(self._stack.home), PATH=os.environ["PATH"]),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        for workflow_id, kind in re.findall(r'"workflow_id":"(([a-z][a-z-]*)-[0-9a-f]{8,})"', done.stdout):
            self._ids[kind] = workflow_id
        return done.stdout

    def _missing(self, shown: str, output: str) -> str | None:
        """Returns the first part of what is shown that does not come in its order, None if all do."""
        at = 0
        for literal in filter(None, (part.strip() for part in self._typed(shown).split("…"))):
            at = output.find(literal, at)
            if at < 0:
                return literal
            at += len(literal)
        return None

    def _wait_for_a_step(self) -> None:
        """Waits as a reader's hands do: the workflow has run some steps, and not all."""
        path = f"/workflows/{self._ids['class-scope']}/steps"
        wait_for(lambda: len(self._stack.get(path)["steps"]) >= 2, 20, "the workflow has run a step")


@pytest.mark.parametrize("page", PAGES)
def test_the_tour_is_true(page: str, tmp_path: Path) -> None:
    commands = steps((ROOT / page).read_text("utf-8"))
    assert len(commands) >= 5
    with running_stack(NativeStack(tmp_path / "home")) as stack:
        assert isinstance(stack, NativeStack)
        reader = Reader(stack)
        for command, shown in commands:
            reader.follow(command, shown)
