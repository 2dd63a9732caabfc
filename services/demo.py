"""``make demo``: shows what happens to work when its process is killed, paused or restarted, and the cost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from holdfast.commands import (
    Api,
    Member,
    NothingRunsError,
    console,
    findings_here,
    here,
    poll_until,
    recent_handovers,
    show_findings,
)
from holdfast.statuses import TERMINAL

T = TypeVar("T")

SCOPE_STEPS, SCOPE_STEP_SECONDS = 16, 0.4
SECOND_BATCH = [33] * 24
_LONG_SECONDS = 240.0


class DemoFailed(Exception):  # noqa: N818 - says what did not happen
    """An expected event of the demo did not happen in time."""


class Demo:
    """One run of the demo. ``figures`` collects measurements, ``failures`` the expectations that failed."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.api = Api()
        self.installation = here()
        self.console = Console(quiet=True) if quiet else console
        self.quiet = quiet
        self.accepted: list[str] = []
        self.figures: dict[str, Any] = {"backend": self.installation.backend, "url": self.api.address}
        self.failures: list[str] = []
        self.findings: list[Any] = []
        self._hurt: list[tuple[Callable[[Member], None], Member]] = []

    def run(self) -> dict[str, Any]:
        """Runs all scenes, always undoes the faults, and returns the verdict and the figures."""
        begun = time.monotonic()
        try:
            self._killed_worker()
            self._paused_worker()
            self._restarted_api()
        except DemoFailed as error:
            self.failures.append(str(error))
        finally:
            self._heal()
        self._audit()
        self.figures["seconds"] = round(time.monotonic() - begun, 1)
        self._verdict()
        ok = not self.failures and all(finding["ok"] for finding in self.findings)
        return {"ok": ok, "figures": self.figures, "troubles": self.failures, "findings": self.findings}

    # --- the scenes ------------------------------------------------------------------------

    def _killed_worker(self) -> None:
        self._workers(2)
        batch = self._start("/fibonacci/batches", {"count": 50})
        self._say(f"[bold]1[/] a batch of 50 numbers by plain recursion: {batch}")
        with self._progress(batch) as poll:
            victim = self._busy_worker(batch, poll, at_least=8)
            self._say(f"  SIGKILL to {victim.executor_id}, in the middle of its numbers")
            killed_at = datetime.now(UTC)
            self.installation.kill(victim)
            self._hurt.append((self.installation.revive, victim))
            moves = self._moves(victim, poll)
            self._times("kill", killed_at, moves)
            self._heal()
            self._finish(batch, poll)

    def _paused_worker(self) -> None:
        workers = self._workers(2)
        batch = self._start("/fibonacci/batches", {"numbers": SECOND_BATCH})
        self._say(f"[bold]2[/] another batch: {batch}")
        with self._progress(batch) as poll:
            victim = self._busy_worker(batch, poll, at_least=2)
            self._say(f"  freezing {victim.executor_id}; its socket stays open, its heartbeat stops")
            paused_at = datetime.now(UTC)
            self.installation.pause(victim)
            self._hurt.append((self.installation.resume, victim))
            moves = self._moves(victim, poll)
            self._times("pause", paused_at, moves)
            self._heal()
            self._say("  it goes on, finds itself declared dead, and ends; a new one takes its place")
            self._finish(batch, poll)
        self._wait(lambda: len(self._live("worker")) >= len(workers), 60, "the workers to be complete again")
        rows = [r for r in self._executors() if r["executor_id"] == victim.executor_id]
        if rows and rows[0]["state"] != "dead":
            self.failures.append(
                f"{victim.executor_id} was paused beyond its lease and is {rows[0]['state']}"
            )

    def _restarted_api(self) -> None:
        body = {"steps": SCOPE_STEPS, "step_seconds": SCOPE_STEP_SECONDS}
        workflow = self._start("/scope/class", body)
        self._say(f"[bold]3[/] {SCOPE_STEPS} steps that count in an object: {workflow}")
        path = f"/workflows/{workflow}"
        self._wait(lambda: len(self.api.get(f"{path}/steps")["steps"]) >= SCOPE_STEPS // 3, 30, "some steps")
        victim = self._members("api")[0]
        self._say(f"  SIGKILL to {victim.executor_id}, which runs them, and a new API in its place")
        begun = time.monotonic()
        self.installation.kill(victim)
        self._hurt.append((self.installation.revive, victim))
        self._heal()
        self._wait(lambda: self._live("api"), 60, "a new API")
        self.figures["api_away_seconds"] = round(time.monotonic() - begun, 2)
        done = self._wait(lambda: (w := self.api.get(path))["status"] in TERMINAL and w, 60, "the report")
        report = done["output"]
        counted = report["counters"]
        self.figures["durable_counter"] = counted["durable"]
        self.figures["instance_counter"] = counted["instance"]
        self._say(
            f"  durable counter {counted['durable']} of {SCOPE_STEPS}, counter in the object "
            f"{counted['instance']}: {len(report['replayed_steps'])} steps were replayed, not run again"
        )
        if counted["durable"] != SCOPE_STEPS or counted["instance"] != len(report["steps_run_here"]):
            self.failures.append(f"counters are off: {counted}")
        if counted["instance"] >= SCOPE_STEPS:
            self.failures.append("the API was not killed inside the workflow")

    def _audit(self) -> None:
        lines = [{"kind": "request", "outcome": "ok", "workflow_id": w} for w in self.accepted]
        self._say("[bold]4[/] the audit")
        self.findings = list(findings_here("\n".join(map(json.dumps, lines)), idle=True))
        if not self.quiet:
            show_findings(self.findings)

    def _verdict(self) -> None:
        for failure in self.failures:
            self._say(f"[red]{escape(failure)}[/]")
        labels = {
            "killed worker: its work ran elsewhere after": "kill_claimed_seconds",
            "paused worker: after": "pause_claimed_seconds",
            "killed API: away for": "api_away_seconds",
        }
        known = [
            f"{text} {self.figures[name]:.2f} s" for text, name in labels.items() if name in self.figures
        ]
        self._say(f"[bold]{'; '.join(known)}[/]")
        if not self.failures and all(finding["ok"] for finding in self.findings):
            self._say("[green bold]Nothing lost, nothing doubled, nothing stuck.[/]")

    # --- output ----------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        self.console.print(text)

    def _progress(self, batch: str) -> _Progress:
        columns = (
            TextColumn("  {task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        return _Progress(self, batch, Progress(*columns, console=self.console))

    def _times(self, what: str, since: datetime, moves: list[dict[str, Any]]) -> None:
        def seconds(column: str) -> list[float]:
            return [(_moment(move[column]) - since).total_seconds() for move in moves if move[column]]

        released, claimed = seconds("released_at"), seconds("claimed_at")
        self.figures[f"{what}_workflows"] = len(moves)
        self.figures[f"{what}_released_seconds"] = round(min(released), 3)
        self.figures[f"{what}_claimed_seconds"] = round(min(claimed), 3)
        self._say(
            f"  [bold]{len(moves)} workflows taken over ({moves[0]['reason']}): back in their queues after "
            f"{min(released):.2f} s, the first running elsewhere after {min(claimed):.2f} s[/]"
        )

    def _start(self, path: str, body: dict[str, Any]) -> str:
        workflow_id = str(self.api.post(path, body)["workflow_id"])
        self.accepted.append(workflow_id)
        return workflow_id

    def _executors(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.api.get("/executors")["executors"]
        return rows

    def _members(self, role: str) -> list[Member]:
        return self.installation.members(role, self._executors())

    def _live(self, role: str) -> list[Member]:
        fresh = [row for row in self._executors() if (row["heartbeat_age_seconds"] or 0) < 3]
        return self.installation.members(role, fresh)

    def _workers(self, count: int) -> list[Member]:
        return self._wait(
            lambda: len(found := self._live("worker")) >= count and found, 30, f"{count} live workers"
        )

    def _busy_worker(self, batch: str, poll: _Progress, *, at_least: int) -> Member:
        def busy() -> Member | None:
            state = poll()
            if state["completed"] < at_least:
                return None
            running = [n["executor_id"] for n in state["results"] if n["status"] == "PENDING"]
            found = [member for member in self._members("worker") if member.executor_id in running]
            return max(found, key=lambda member: running.count(member.executor_id), default=None)

        return self._wait(busy, 120, f"a worker in the middle of {batch}")

    def _moves(self, victim: Member, poll: _Progress) -> list[dict[str, Any]]:
        def moved() -> list[dict[str, Any]]:
            poll()
            rows = recent_handovers(100, victim.executor_id)
            return rows if any(row["claimed_at"] for row in rows) else []

        return self._wait(moved, 60, f"the work of {victim.executor_id} to be taken over")

    def _finish(self, batch: str, poll: _Progress) -> None:
        done = self._wait(
            lambda: (b := poll())["status"] in TERMINAL and b, _LONG_SECONDS, f"the end of {batch}"
        )
        if done["status"] != "SUCCESS" or done["completed"] != done["total"]:
            self.failures.append(f"{batch}: {done['status']}, {done['completed']} of {done['total']}")

    def _heal(self) -> None:
        while self._hurt:
            mend, member = self._hurt.pop()
            with suppress(NothingRunsError, ProcessLookupError):
                mend(member)

    def _wait(self, condition: Callable[[], T | bool | None], seconds: float, what: str) -> T:
        # The API or its database may be down: the demo expects that.
        for value, _ in poll_until(lambda _: condition(), seconds=seconds):
            if value:
                return value  # type: ignore[return-value]  # truthy, so it is no bool of a T
        raise DemoFailed(f"waited {seconds:g} s in vain for {what}")


class _Progress:
    """Polls a batch and updates its progress bar."""

    def __init__(self, demo: Demo, batch: str, bar: Progress) -> None:
        self._demo = demo
        self._batch = batch
        self._bar = bar
        self._task = bar.add_task(batch, total=None)

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self) -> dict[str, Any]:
        state: dict[str, Any] = self._demo.api.get(f"/fibonacci/batches/{self._batch}")
        self._bar.update(self._task, completed=state["completed"], total=state["total"])
        return state


def _moment(value: Any) -> datetime:
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)
