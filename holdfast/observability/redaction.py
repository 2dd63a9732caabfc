"""Takes what PostgreSQL quotes of rows and statements out of an error, before it is logged or shown."""

from __future__ import annotations

import re

# What follows the message: the row that a constraint refused, the literal that was no number, the statement.
# Each may hold line breaks itself, so it ends only where SQLAlchemy or a traceback goes on.
_QUOTED = re.compile(
    r"\n(?:DETAIL|CONTEXT|QUERY|STATEMENT|WHERE|LINE \d+):.*?"
    r"(?=\n\[SQL: |\n\(Background on this error |\n\nThe above exception |\n\nDuring handling |\Z)",
    re.DOTALL,
)
_VALUE = re.compile(r"(invalid (?:input syntax|input value|byte sequence) for [^:\n]{1,80}: ).*")


def without_values(text: str) -> str:
    """The text of an error or a traceback, without the data that PostgreSQL quotes in it."""
    return _VALUE.sub(r"\1…", _QUOTED.sub("", text))
