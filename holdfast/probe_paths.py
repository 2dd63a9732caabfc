"""Paths that probes and Prometheus ask every few seconds: never limited, logged, traced or locked."""

from __future__ import annotations

from typing import Final

LIVE: Final = "/livez"
READY: Final = "/readyz"
METRICS: Final = "/metrics"

PROBE_PATHS: Final = (LIVE, READY, METRICS)
