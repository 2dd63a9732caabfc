"""The file of all results: one record per contender, case and round, kept until it is measured again."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.compare import machine
from bench.compare.summaries import Record

RESULTS = Path(__file__).parents[1] / "results" / "compare.json"


class Results:
    """Records of this and of earlier runs. Every record is written immediately: a run may be stopped."""

    def __init__(self, path: Path = RESULTS, *, resume: bool = False) -> None:
        self.path = path
        loaded = json.loads(path.read_text("utf-8")) if path.exists() else {}
        self.records: list[Record] = loaded.get("records", [])
        self.versions: dict[str, dict[str, str]] = loaded.get("versions", {})
        self.runs: dict[str, dict[str, Any]] = loaded.get("runs", {})
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        self.run = max(self.runs) if resume and self.runs else now
        self.runs.setdefault(self.run, {"machine": machine.describe()})

    def has(self, contender: str, case: str, number: int) -> bool:
        """Whether this run has that result already, and not as a failure."""
        return any(
            self._key(r) == (contender, case) and r["round"] == number and r["run"] == self.run
            for r in self.records
            if "failed" not in r
        )

    def add(self, contender: str, case: str, number: int, values: dict[str, Any]) -> None:
        """One record. Those of earlier runs of the same contender and case go: rounds of one result are
        of one run."""
        kept = [
            r
            for r in self.records
            if self._key(r) != (contender, case) or (r["run"] == self.run and r["round"] != number)
        ]
        identity = {"contender": contender, "case": case, "round": number, "run": self.run}
        self.records = [*kept, {**identity, "load": machine.load(), **values}]
        self.write()

    def write(self) -> None:
        """The whole file, or the old one."""
        used = {record["run"] for record in self.records} | {self.run}
        self.runs = {run: described for run, described in self.runs.items() if run in used}
        report = {"runs": self.runs, "versions": self.versions, "records": self.records}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")
        new.replace(self.path)

    @staticmethod
    def _key(record: Record) -> tuple[str, str]:
        return record["contender"], record["case"]
