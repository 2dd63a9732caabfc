"""Grafana's dashboards as the tests read them: every panel and what it asks Prometheus for."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASHBOARDS = sorted(
    (Path(__file__).resolve().parents[2] / "observability" / "grafana" / "dashboards").glob("*.json")
)
DATASOURCE_UID = "holdfast-prometheus"
_VARIABLE = re.compile(r"\$\w+")


@dataclass(frozen=True)
class Panel:
    """One panel that asks for something."""

    dashboard: str
    id: int
    title: str
    json: dict[str, Any]

    @property
    def raw_expressions(self) -> list[str]:
        """Its queries as they are written, with Grafana's variables in them."""
        return [target["expr"] for target in self.json["targets"]]


def load(path: Path) -> dict[str, Any]:
    """A dashboard's JSON."""
    board: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return board


def panels(path: Path) -> list[Panel]:
    """The panels of a dashboard, without the rows that head them."""
    found = [panel for panel in load(path)["panels"] if panel["type"] not in ("row", "text")]
    return [Panel(path.stem, panel["id"], panel["title"], panel) for panel in found]


def expressions(panel: Panel) -> list[str]:
    """Its queries as Grafana sends them: every variable says All, and rates are taken over a minute."""
    return [_VARIABLE.sub(".+", one.replace("$__rate_interval", "1m")) for one in panel.raw_expressions]
