"""Reads Grafana's dashboards for tests: each panel with its Prometheus queries."""

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
    """One panel with queries."""

    dashboard: str
    id: int
    title: str
    json: dict[str, Any]

    @property
    def raw_expressions(self) -> list[str]:
        """The panel's queries as written, with Grafana's variables."""
        return [target["expr"] for target in self.json["targets"]]


def load(path: Path) -> dict[str, Any]:
    """Reads a dashboard's JSON."""
    board: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return board


def panels(path: Path) -> list[Panel]:
    """Returns the panels of a dashboard, without row headers."""
    found = [panel for panel in load(path)["panels"] if panel["type"] not in ("row", "text")]
    return [Panel(path.stem, panel["id"], panel["title"], panel) for panel in found]


def expressions(panel: Panel) -> list[str]:
    """Returns a panel's queries as Grafana sends them: all variables are All, rates are over a minute."""
    return [_VARIABLE.sub(".+", one.replace("$__rate_interval", "1m")) for one in panel.raw_expressions]
