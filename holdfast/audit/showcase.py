"""The showcase's durable names, which the invariants of the audit speak of."""

from __future__ import annotations

from holdfast.audit.audit import Subjects
from holdfast.durable import names

SUBJECTS = Subjects(
    batch=names.FIBONACCI_BATCH,
    sequence=names.FIBONACCI_SEQUENCE,
    number=names.FIBONACCI_NUMBER,
    tick=names.PULSE_TICK,
    purges=[names.PURGE, names.PURGE_TICK],
    poison=names.POISON,
    scopes=[names.CLASS_SCOPE, names.INSTANCE_SCOPE, names.FUNCTION_SCOPE],
    listing=names.BUCKET_LISTING,
    page=names.BUCKET_PAGE,
    tick_seconds=names.PULSE_SECONDS,
)
