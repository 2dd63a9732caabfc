"""Rolling updates on Docker Swarm under load: ``python -m tests.swarm [--seed S] [--report FILE]``.

Makes this engine a Swarm of one node (and undoes it), deploys deploy/swarm/stack.yaml, and under load
replaces the workers' image and the API's, scales, kills a container, tries an update that cannot start, and
deploys the whole stack anew. At the end every request without an answer is repeated, and ``holdfast verify``
decides. Exit code 0 only if it, and each change's own check, hold; the report is Markdown and JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from holdfast.audit import evidence
from tests.chaos.load import JournalFile, Load
from tests.chaos.report import totals
from tests.support.stack import ROOT, clean_environment, wait_for
from tests.support.swarm_stack import SwarmStack, docker, swarm_of_one
from tests.swarm.report import markdown

IMAGE = "holdfast-swarm"
NUMBERS = [28, 29, 30, 29, 28, 30]
SETTINGS = {"HOLDFAST_DRAIN_SECONDS": "8", "HOLDFAST_STOP_GRACE_SECONDS": "20"}
_ENDED = {"shutdown", "complete", "failed", "rejected"}

Seen = dict[str, Any]


class Run:
    """The changes, one after the other, each with what it must leave behind."""

    def __init__(self, stack: SwarmStack, load: Load, images: list[str]) -> None:
        self.stack = stack
        self.load = load
        self.images = images
        self.done: list[dict[str, Any]] = []
        self.problems: list[str] = []

    def all(self) -> None:
        """Every change once; one that fails is written down, and the next goes on."""
        changes: list[tuple[str, Callable[[], Seen]]] = [
            ("a new image for the workers, one after the other", self.update_workers),
            ("a new image for the API", self.update_api),
            ("three workers, then two again", self.scale),
            ("a worker's container killed", self.kill),
            ("an update that cannot start", self.broken_update),
            ("`docker stack deploy` of everything with a third image", self.deploy_again),
        ]
        for text, change in changes:
            entry: dict[str, Any] = {"change": text, "ok": True, "seen": {}}
            self.done.append(entry)
            batch = self.batch(len(self.done))
            begun = time.monotonic()
            try:
                entry["seen"] = change()
                entry["seconds"] = round(time.monotonic() - begun, 1)
                self.succeeded(batch)
            except (AssertionError, httpx.HTTPError, subprocess.SubprocessError) as error:
                entry["ok"] = False
                self.problems.append(f"{text}: {type(error).__name__} {error}")
            print(f"{text}: {'well' if entry['ok'] else self.problems[-1][:1500]} {entry}", flush=True)

    # --- the changes -----------------------------------------------------------------------

    def update_workers(self) -> Seen:
        return self._updated("worker", 2)

    def update_api(self) -> Seen:
        return self._updated("api", 1)

    def _updated(self, service: str, count: int) -> Seen:
        before = self.stack.running(service)
        self.stack.update(service, "--image", self.images[1])
        self.stack.settled(service, count, self.images[1])
        return self._ended(service, {task.task_id for task in before})

    def _ended(self, service: str, ids: set[str]) -> Seen:
        """These tasks end with 0, and no work is left under anyone who is gone."""

        def all_of_them() -> list[int]:
            ended = [t for t in self.stack.tasks(service) if t.task_id in ids and t.state in _ENDED]
            return [task.exit_code for task in ended] if len(ended) == len(ids) else []

        codes = wait_for(all_of_them, 60, f"end of {len(ids)} tasks of {service}", pause_seconds=0.3)
        assert set(codes) == {0}, f"{service} ended with {codes}"
        wait_for(lambda: not self.unfinished_elsewhere(), 30, "no work under who is gone", pause_seconds=0.3)
        return {"drained": len(codes)}

    def scale(self) -> Seen:
        name = self.stack.service("worker")
        docker("service", "scale", "--detach", f"{name}=3")
        wait_for(lambda: len(self.stack.running("worker")) == 3, 60, "three workers", pause_seconds=0.3)
        three = {task.task_id: task.container for task in self.stack.running("worker")}
        docker("service", "scale", "--detach", f"{name}=2")
        wait_for(lambda: len(self.stack.running("worker")) == 2, 60, "two workers", pause_seconds=0.3)
        # Swarm forgets the task of a slot that is gone: its container, stopped, says how it ended.
        gone = set(three.values()) - {task.container for task in self.stack.running("worker")}
        state = self.drained(gone.pop()[:12])
        wait_for(lambda: not self.unfinished_elsewhere(), 30, "no work under who is gone", pause_seconds=0.3)
        return {"the third": state}

    def drained(self, hostname: str) -> str:
        """The state in which the registry keeps who ended, once it has; it must be ``drained``."""
        rows = wait_for(
            lambda: self.stack.query(
                f"SELECT state FROM ops.executors WHERE hostname = '{hostname}'"
                " AND state NOT IN ('live', 'draining')"
            ),
            40,
            f"end of {hostname}",
            pause_seconds=0.3,
        )
        assert rows[0]["state"] == "drained", f"{hostname}: {rows}"
        return str(rows[0]["state"])

    def kill(self) -> Seen:
        victim = self.stack.running("worker")[0]
        docker("kill", victim.container)
        rows = wait_for(
            lambda: self.stack.query(
                "SELECT reason, taken_over_by FROM ops.executors"
                f" WHERE hostname = '{victim.container[:12]}' AND state = 'dead'"
            ),
            20,
            "the killed one declared dead",
            pause_seconds=0.1,
        )
        assert rows[0]["taken_over_by"], rows
        wait_for(lambda: len(self.stack.running("worker")) == 2, 60, "its successor", pause_seconds=0.3)
        return {"reason": rows[0]["reason"]}

    def broken_update(self) -> Seen:
        """A lease shorter than the heartbeat interval: the new task does not start, and Swarm rolls back."""
        before = {task.task_id for task in self.stack.running("worker")}
        self.stack.update("worker", "--env-add", "HOLDFAST_LEASE_SECONDS=0.5")
        state = wait_for(
            lambda: (
                (s := self.stack.update_state("worker")).startswith("rollback_")
                and s != "rollback_started"
                and s
            ),
            120,
            "the rollback",
            pause_seconds=0.3,
        )
        assert state == "rollback_completed", state
        after = {task.task_id for task in self.stack.running("worker")}
        assert before & after, "start-first must keep those that run until a new one is well"
        return {"state": state, "kept running": len(before & after)}

    def deploy_again(self) -> Seen:
        before = {s: {t.task_id for t in self.stack.running(s)} for s in ("worker", "api")}
        # Not the first one: an image that the stack file has not changed stays what an update made of it.
        self.stack.deploy(self.images[2])
        self.stack.settled("worker", 2, self.images[2])
        self.stack.settled("api", 1, self.images[2])
        return {s: self._ended(s, ids)["drained"] for s, ids in before.items()}

    # --- what they need --------------------------------------------------------------------

    def batch(self, number: int) -> str:
        """A journaled batch that must be accepted."""
        body = {"numbers": NUMBERS}
        answer = wait_for(
            lambda: self.load.post("/fibonacci/batches", body, f"swarm-{number}"), 30, "a batch accepted"
        )
        return str(answer["workflow_id"])

    def succeeded(self, batch_id: str) -> None:
        """Waits for its end, which must be success; the API may be away meanwhile."""

        def ended() -> str | None:
            answer = httpx.get(
                f"{self.stack.url}/fibonacci/batches/{batch_id}",
                headers=self.load.headers,
                timeout=5,
                trust_env=False,
            )
            status = answer.json()["status"] if answer.status_code == 200 else "ENQUEUED"
            return status if status not in ("ENQUEUED", "PENDING") else None

        status = wait_for(ended, 90, f"end of {batch_id}", pause_seconds=0.2)
        assert status == "SUCCESS", f"{batch_id}: {status}"

    def unfinished_elsewhere(self) -> list[dict[str, Any]]:
        """Running work of executors that are not alive."""
        return self.stack.query(
            "SELECT w.workflow_uuid AS id FROM dbos.workflow_status w WHERE w.status = 'PENDING'"
            " AND NOT EXISTS (SELECT FROM ops.executors e"
            " WHERE e.executor_id = w.executor_id AND e.state IN ('live', 'draining'))"
        )


def audit(stack: SwarmStack, journal: Path) -> list[dict[str, Any]]:
    """``holdfast verify`` in the API's container, and what the services' logs say of invariant 9."""
    words = ["verify", "--journal", "-", "--idle", "--settle", "90", "--json"]
    told = stack.holdfast(*words, text=journal.read_text("utf-8"))
    findings: list[dict[str, Any]] = json.loads(told)["findings"]
    secret = docker("exec", stack.api_container(), "sh", "-c", "cat /run/holdfast/*")
    lines = [line for service in ("api", "worker") for line in stack.logs(service)]
    # The update that cannot start says why to a person, before there is a logger.
    refused = [line for line in lines if line.startswith("settings: ")]
    ours = [line for line in lines if line not in refused]
    clean = evidence.logs_are_clean(ours, evidence.secrets_in(secret), plain=refused)
    return [evidence.joined(f, clean) if f["invariant"] == 9 else f for f in findings]


def updates(options: argparse.Namespace, images: list[str], home: Path) -> dict[str, Any]:
    """All of it; returns the report."""
    stack = SwarmStack(images[0], **SETTINGS)
    journal = JournalFile(home / "journal.jsonl")
    begun = time.monotonic()
    try:
        stack.make_secrets()
        stack.deploy()
        wait_for(lambda: stack.ready() and len(stack.running("worker")) == 2, 180, "a ready stack")
        started = round(time.monotonic() - begun, 1)
        print(f"ready after {started} s", flush=True)
        load = Load(stack.url, journal, seed=options.seed, token=stack.admin_token())
        run = Run(stack, load, images)
        load.start()
        try:
            run.all()
        finally:
            load.stop()
        if left := load.settle(60):
            run.problems.append(f"{left} requests found no answer within a minute of repeating")
        journal.close()
        findings = audit(stack, journal.path)
        if run.problems or not all(finding["ok"] for finding in findings):
            for service in ("migrate", "api", "worker"):
                log = options.report.with_name(f"{options.report.stem}-{service}.jsonl")
                log.write_text("\n".join(stack.logs(service)), "utf-8")
    finally:
        stack.down()
    report = {
        "seed": options.seed,
        "engine": docker("version", "--format", "{{.Server.Version}}").strip(),
        "started_seconds": started,
        "changes": run.done,
        "answers": load.counts,
        "troubles": run.problems,
        "findings": findings,
    }
    report["ok"] = not run.problems and all(finding["ok"] for finding in findings)
    report["totals"] = totals([{**report, "faults": run.done}])
    return report


def images() -> list[str]:
    """Images of this checkout that differ in a label alone: an update that changes no code."""
    build = ["docker", "compose", "--env-file", "/dev/null", "build", "--quiet", "api"]
    subprocess.run(build, cwd=ROOT, env=clean_environment(HOLDFAST_IMAGE=f"{IMAGE}:a"), check=True)
    for tag in ("b", "c"):
        text = f"FROM {IMAGE}:a\nLABEL org.holdfast.swarm={tag}\n"
        docker("build", "--quiet", "--tag", f"{IMAGE}:{tag}", "-", input=text)
    return [f"{IMAGE}:{tag}" for tag in ("a", "b", "c")]


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.swarm", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path, default=ROOT / ".holdfast" / "swarm" / "report.md")
    options = parser.parse_args()
    options.report.parent.mkdir(parents=True, exist_ok=True)
    made = images()
    try:
        with swarm_of_one(), tempfile.TemporaryDirectory(prefix="holdfast-swarm-") as home:
            report = updates(options, made, Path(home))
    finally:
        docker("image", "rm", *made, check=False)
    report["load"] = round(os.getloadavg()[0], 1)
    options.report.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    options.report.write_text(markdown(report), "utf-8")
    print(markdown(report))
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
