"""Paths that probes and Prometheus request every few seconds, without token, rate limit, log and trace."""

from __future__ import annotations

from typing import Final

LIVE: Final = "/livez"
READY: Final = "/readyz"
METRICS: Final = "/metrics"

PROBE_PATHS: Final = (LIVE, READY, METRICS)
