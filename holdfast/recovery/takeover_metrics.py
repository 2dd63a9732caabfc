"""Counts takeovers for /metrics."""

from __future__ import annotations

from holdfast.observability import metrics
from holdfast.recovery.blame import Verdict


def count_takeover(reason: str, verdicts: list[Verdict], seconds: float) -> None:
    """Counts one release of work by this executor. ``seconds``: time since the loss, for a takeover."""
    if reason in metrics.TAKEOVER_REASONS:
        metrics.TAKEOVERS.labels(reason=reason).inc()
        metrics.TAKEOVER_DELAY.observe(seconds)
    metrics.TAKEOVER_WORKFLOWS.labels(reason=reason).inc(len(verdicts))
    metrics.PARKED.inc(sum(v.action == "park" for v in verdicts))
