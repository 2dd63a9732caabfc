"""The showcase's durable names, which the audit's invariants mention."""

from __future__ import annotations

from holdfast.audit.audit import Subjects

SUBJECTS = Subjects(
    batch="fibonacci.batch",
    sequence="fibonacci.sequence",
    number="fibonacci.number",
    tick="pulse.tick",
    purges=["retention.purge", "retention.tick"],
    poison="chaos.poison",
    scopes=["ClassScope.run", "InstanceScope.run", "scope.function"],
    listing="buckets.listing",
    page="buckets.page",
    tick_seconds=5,
)
