"""A seeded fault campaign: ``python -m tests.chaos --seed S --minutes M [--backend BACKEND]``.

Starts a Holdfast of its own under load, does what the seed says, and after each fault waits until it has
healed. At the end every request without an answer is repeated, the backlog must empty, and the audit
decides. Everything it started it ends. Exit code 0 only if every invariant and every fault's own check
hold; the report is Markdown and JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from tests.chaos import disk, hands, hosts
from tests.chaos.faults import FAULTS
from tests.chaos.ground import GRACE_SECONDS, Ground, patiently
from tests.chaos.load import JournalFile, Load
from tests.chaos.plan import CONTAINERS, GROUPS, KINDS, Fault, plan
from tests.chaos.report import markdown
from tests.support.compose_stack import ComposeStack
from tests.support.native_stack import NativeStack
from tests.support.stack import ROOT, Stack, clean_environment, running_stack, wait_for

IMAGE = "holdfast-chaos"
HEAL_SECONDS = 90.0
SETTINGS = {
    "HOLDFAST_CHAOS": "true",
    "HOLDFAST_DRAIN_SECONDS": "8",
    "HOLDFAST_STOP_GRACE_SECONDS": f"{GRACE_SECONDS:g}",
}


class Campaign:
    """One run of a plan against a stack."""

    def __init__(self, stack: Stack, load: Load, journal: JournalFile, *, deadline: float) -> None:
        self.stack = stack
        self.load = load
        self.journal = journal
        self.ground = Ground(stack, load, journal)
        self.deadline = deadline
        self.done: list[dict[str, Any]] = []
        self.problems: list[str] = []

    def run(self, faults: list[Fault]) -> None:
        """Runs the faults in order until the plan or the time is over."""
        self._heal()
        for fault in faults:
            if time.monotonic() + KINDS[fault.kind].cost_seconds > self.deadline:
                self._say(f"time is over; {len(faults) - len(self.done)} planned faults are left out")
                return
            time.sleep(fault.pause_seconds)
            if not self._one(fault):
                return

    def _one(self, fault: Fault) -> bool:
        entry: dict[str, Any] = {"number": fault.number, "row": fault.row, "kind": fault.kind, "ok": True}
        entry |= {"parameters": fault.parameters, "seen": {}, "recovery_seconds": None}
        self.done.append(entry)
        begun = time.monotonic()
        try:
            self.ground.over()
            entry["seen"] = FAULTS[fault.kind](self.ground, **fault.parameters)
        except Exception as error:  # a failed fault is a finding and does not end the campaign
            self._trouble(entry, f"{fault.kind}: {type(error).__name__} {error}")
        entry["fault_seconds"] = round(time.monotonic() - begun, 2)
        healed = True
        try:
            entry["recovery_seconds"] = self._heal()
        except (AssertionError, httpx.HTTPError, subprocess.SubprocessError) as error:
            self._trouble(entry, f"{fault.kind}: not healed: {error}")
            healed = False
        self.journal.write("fault", fault=entry)
        entry["load"] = round(os.getloadavg()[0], 1)
        told = ", ".join(f"{name} {value}" for name, value in entry["seen"].items())
        verdict = "healed" if entry["ok"] else "TROUBLE"
        self._say(f"{fault.number:3} {fault.kind}: {verdict} {entry['recovery_seconds']} s; {told}")
        return healed

    def _trouble(self, entry: dict[str, Any], text: str) -> None:
        entry["ok"] = False
        self.problems.append(f"{entry['number']} {text}")
        self._say(f"    {text[:1500]}")

    def _heal(self) -> float:
        """Waits until all processes run, no work belongs to an ended one, and new work succeeds.

        Returns the seconds since the end of the fault.
        """
        patiently(self.ground.ids, HEAL_SECONDS)
        wait_for(
            lambda: not hands.unfinished_elsewhere(self.stack), 30, "no work under an executor that is gone"
        )
        self.ground.succeeded(self.ground.batch([10, 11, 12]), HEAL_SECONDS)
        return round(time.monotonic() - self.ground.over_at, 2)

    def _say(self, text: str) -> None:
        print(text, flush=True)


def audit(stack: Stack, journal: Path) -> list[dict[str, Any]]:
    """Runs ``holdfast verify`` with the journal. Raises ``AssertionError`` if it gives no result."""
    if isinstance(stack, ComposeStack):
        environment = {
            **stack.environment,
            "COMPOSE_PROJECT_NAME": stack.project,
            "HOLDFAST_HOME": "/nonexistent",
        }
    else:
        assert isinstance(stack, NativeStack)
        environment = clean_environment(**stack.settings, HOLDFAST_HOME=str(stack.home))
    command = ["verify", "--journal", str(journal), "--idle", "--settle", "90", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "holdfast.cli.main", *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    with suppress(ValueError):
        findings: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
        return findings
    raise AssertionError(f"the audit ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-1500:]}")


def campaign(options: argparse.Namespace, faults: list[Fault], home: Path) -> dict[str, Any]:
    """Runs the campaign and returns the report."""
    stack: Stack
    if options.backend == "native":
        modules = {
            "HOLDFAST_MODULES": "tests.support.waiting_workflows",
            "WAITING_OUT": str(home / "marks"),
        }
        stack = NativeStack(home / "stack", workers=options.workers, **SETTINGS, **modules)
    else:
        build = ["docker", "compose", "build", "--quiet"]
        subprocess.run(build, cwd=ROOT, env={**os.environ, "HOLDFAST_IMAGE": IMAGE}, check=True)
        # Only the fault that fills the disk gets the small disk. All other campaigns use the ordinary setup.
        override = disk.OVERRIDE if any(fault.kind == "disk_full" for fault in faults) else ""
        if options.backend == "networks":
            stack = hosts.stack(IMAGE, workers=options.workers, **SETTINGS)
        else:
            stack = ComposeStack(IMAGE, workers=options.workers, override=override, **SETTINGS)
    journal = JournalFile(home / "journal.jsonl")
    findings: list[dict[str, Any]] = []
    with running_stack(stack):
        load = Load(stack.url, journal, seed=options.seed)
        run = Campaign(stack, load, journal, deadline=time.monotonic() + options.minutes * 60 + 30)
        load.start()
        try:
            run.run(faults)
        except (AssertionError, httpx.HTTPError) as error:
            run.problems.append(f"the campaign broke off: {error}")
        finally:
            load.stop()
        left = load.settle(60)
        if left:
            run.problems.append(f"{left} requests found no answer within a minute of repeating")
        journal.close()
        try:
            findings = audit(stack, journal.path)
        except (AssertionError, subprocess.SubprocessError) as error:
            run.problems.append(str(error))
        if run.problems or not findings or not all(finding["ok"] for finding in findings):
            keep = options.report.parent / f"{options.report.stem}-logs"
            keep.mkdir(parents=True, exist_ok=True)
            for name, lines in stack.logs().items():
                (keep / f"{name.split(' ')[0]}.jsonl").write_text("\n".join(lines), "utf-8")
            print(f"logs kept in {keep}")
    shutil.copyfile(journal.path, options.report.with_suffix(".jsonl"))
    ok = bool(findings) and not run.problems and all(finding["ok"] for finding in findings)
    return {
        "ok": ok,
        "backend": options.backend,
        "seed": options.seed,
        "minutes": options.minutes,
        "planned": len(faults),
        "recovery_from": "harm",
        "faults": run.done,
        "answers": load.counts,
        "troubles": run.problems,
        "findings": findings,
    }


def main() -> int:
    """The entry point of the campaign."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument(
        "--backend",
        choices=["native", *CONTAINERS],
        default=None,
        help="compose where it answers; networks: each host a network of its own",
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--only", default="", help=f"kinds of faults, or {', '.join(GROUPS)}, separated by commas"
    )
    parser.add_argument("--runs", type=int, default=0, help="so many of each kind, within the minutes")
    parser.add_argument("--report", type=Path, default=None, help="Markdown; the JSON is written beside it")
    parser.add_argument("--dry-run", action="store_true", help="print the schedule and end")
    options = parser.parse_args()
    options.backend = options.backend or ("compose" if docker_answers() else "native")
    only = [kind for name in options.only.split(",") if name for kind in GROUPS.get(name, [name])]
    if unknown := set(only) - KINDS.keys():
        parser.error(f"unknown kinds: {', '.join(sorted(unknown))}; known: {', '.join(KINDS)}")
    faults = plan(options.seed, options.minutes, options.backend, only, options.runs)
    print(f"seed {options.seed}, {options.minutes:g} minutes, {options.backend}: {len(faults)} faults")
    print("\n".join(map(str, faults)), flush=True)
    if options.dry_run:
        return 0
    options.report = options.report or _default_report(options.backend, options.seed)
    options.report.parent.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="holdfast-chaos-"))
    try:
        report = campaign(options, faults, home)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    options.report.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    options.report.write_text(markdown([report]), "utf-8")
    print(markdown([report]))
    return 0 if report["ok"] else 1


def _default_report(backend: str, seed: int) -> Path:
    # The name contains the time: a later run must not overwrite the findings of an earlier one with the same
    # seed.
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    return ROOT / ".holdfast" / "chaos" / f"{backend}-{seed}-{moment}.md"


def docker_answers() -> bool:
    """Whether a Docker engine with Compose is available."""
    try:
        done = subprocess.run(["docker", "compose", "ls"], capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
