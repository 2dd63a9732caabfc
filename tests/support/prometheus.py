"""A running Prometheus, asked over its HTTP API."""

from __future__ import annotations

import math
import re
import time
from typing import Any

import httpx

Sample = dict[str, Any]
"""``metric`` (its labels) with ``value`` or ``values``: pairs of time and text."""


class Prometheus:
    """The API of one Prometheus. A refused query raises ``AssertionError`` with what Prometheus says."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=f"{url}/api/v1", timeout=20, trust_env=False)

    def close(self) -> None:
        """End its connections."""
        self._http.close()

    def _get(self, path: str, **parameters: Any) -> Any:
        answer = self._http.get(path, params=parameters)
        body = answer.json()
        assert body["status"] == "success", f"{parameters}: {body.get('error')}"
        return body["data"]

    def query(self, expression: str) -> list[Sample]:
        """What the expression says now."""
        found: list[Sample] = self._get("/query", query=expression)["result"]
        return found

    def value(self, expression: str) -> float | None:
        """The one value of the expression, None where there is none."""
        found = self.query(expression)
        assert len(found) <= 1, f"{expression}: {found}"
        return float(found[0]["value"][1]) if found else None

    def drawn(self, expression: str, *, seconds: float = 600, step_seconds: float = 5) -> list[Sample]:
        """Its series over the last so many seconds, as a panel asks; those without a number left out."""
        now = time.time()
        rows = self._get("/query_range", query=expression, start=now - seconds, end=now, step=step_seconds)
        return [row for row in rows["result"] if any(math.isfinite(float(text)) for _, text in row["values"])]

    def targets(self) -> list[tuple[str, str, str]]:
        """(job, instance, health) of everything that is scraped."""
        active = self._get("/targets", state="active")["activeTargets"]
        return sorted((t["labels"]["job"], t["labels"]["instance"], t["health"]) for t in active)

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with ``name``, ``type``, ``health`` and ``lastError``."""
        return [rule for group in self._get("/rules")["groups"] for rule in group["rules"]]

    def firing(self) -> set[str]:
        """Names of the alerts that fire."""
        alerts = self._get("/alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def label_values(self, variable: str) -> list[str]:
        """What Grafana offers for a variable ``label_values(SERIES, LABEL)``."""
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable)
        assert match, variable
        found: list[str] = self._get(f"/label/{match[2]}/values", **{"match[]": match[1]})
        return found
