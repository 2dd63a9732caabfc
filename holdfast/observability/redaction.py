"""Removes the row data and statements that PostgreSQL quotes in an error, before it is logged or shown."""

from __future__ import annotations

import re

# The parts after the message: the row that a constraint refused, the literal that was no number, the
# statement. Each may contain line breaks, so it ends only where the text of SQLAlchemy or of a traceback
# continues.
_QUOTED = re.compile(
    r"\n(?:DETAIL|CONTEXT|QUERY|STATEMENT|WHERE|LINE \d+):.*?"
    r"(?=\n\[SQL: |\n\(Background on this error |\n\nThe above exception |\n\nDuring handling |\Z)",
    re.DOTALL,
)
_VALUE = re.compile(r"(invalid (?:input syntax|input value|byte sequence) for [^:\n]{1,80}: ).*")


def without_values(text: str) -> str:
    """Returns the text of an error or a traceback without the data that PostgreSQL quotes in it."""
    return _VALUE.sub(r"\1…", _QUOTED.sub("", text))
