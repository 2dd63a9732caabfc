"""Makes visible what a terminal would obey: text of rows, errors and S3 keys is data of others.

Control characters move the cursor, forge lines or write the clipboard, and bidirectional controls reorder
what is read. Each becomes its escape in JSON (``\\u001b``), so a JSON document stays one.
"""

from __future__ import annotations

import re

# C0, DEL, C1, line separators, bidirectional controls, and surrogates, which no terminal's encoding has.
_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_IN_LINES = re.compile(f"[{_CONTROLS}]")
_IN_ONE_LINE = re.compile(f"[{_CONTROLS}\t\n]")


def visible(text: str) -> str:
    """Returns a value with every control character as its escape, line breaks and tabs included."""
    return _IN_ONE_LINE.sub(_escape, text)


def visible_lines(text: str) -> str:
    """Returns text that has its own layout: line breaks and tabs stay."""
    return _IN_LINES.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
