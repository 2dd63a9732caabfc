"""A client for a running Prometheus's HTTP API."""

from __future__ import annotations

import math
import re
import time
from typing import Any

import httpx

Sample = dict[str, Any]
"""A sample: ``metric`` (its labels) with ``value`` or ``values``, which are pairs of time and text."""


class Prometheus:
    """The API of one Prometheus. A refused query raises ``AssertionError`` with Prometheus's message."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=f"{url}/api/v1", timeout=20, trust_env=False)

    def close(self) -> None:
        """Closes the client's connections."""
        self._http.close()

    def _get(self, path: str, **parameters: Any) -> Any:
        answer = self._http.get(path, params=parameters)
        body = answer.json()
        assert body["status"] == "success", f"{parameters}: {body.get('error')}"
        return body["data"]

    def query(self, expression: str) -> list[Sample]:
        """Returns the present value of an expression."""
        found: list[Sample] = self._get("/query", query=expression)["result"]
        return found

    def value(self, expression: str) -> float | None:
        """Returns the only value of an expression, None if there is none."""
        found = self.query(expression)
        assert len(found) <= 1, f"{expression}: {found}"
        return float(found[0]["value"][1]) if found else None

    def drawn(self, expression: str, *, seconds: float = 600, step_seconds: float = 5) -> list[Sample]:
        """Returns an expression's series over the last ``seconds``, like a panel, without empty series."""
        now = time.time()
        rows = self._get("/query_range", query=expression, start=now - seconds, end=now, step=step_seconds)
        return [row for row in rows["result"] if any(math.isfinite(float(text)) for _, text in row["values"])]

    def targets(self) -> list[tuple[str, str, str]]:
        """Returns (job, instance, health) of all targets."""
        active = self._get("/targets", state="active")["activeTargets"]
        return sorted((t["labels"]["job"], t["labels"]["instance"], t["health"]) for t in active)

    def rules(self) -> list[dict[str, Any]]:
        """Returns all rules with ``name``, ``type``, ``health`` and ``lastError``."""
        return [rule for group in self._get("/rules")["groups"] for rule in group["rules"]]

    def firing(self) -> set[str]:
        """Returns the names of the firing alerts."""
        alerts = self._get("/alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def label_values(self, variable: str) -> list[str]:
        """Returns Grafana's choices for a variable ``label_values(SERIES, LABEL)``."""
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable)
        assert match, variable
        found: list[str] = self._get(f"/label/{match[2]}/values", **{"match[]": match[1]})
        return found
