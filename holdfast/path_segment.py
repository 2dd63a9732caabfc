"""How a text of any kind, such as a workflow's id, is written as one segment of a URL's path.

It is percent-encoded as a whole, `/` as `%2F`. Browsers and HTTP clients remove a segment of one or two dots,
also if it is percent-encoded, so such a text gets a `~` before it; so does a text that would read as one of
these, such as `~..`. The page does the same (`segment` in `console/static/address.js`).
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

_DOTS = re.compile(r"~*\.{1,2}")


def encode_segment(text: str) -> str:
    """Returns the segment for a text."""
    return quote(f"~{text}" if _DOTS.fullmatch(text) else text, safe="")


def decode_segment(segment: str) -> str:
    """Returns the text of a segment. Bytes that are not UTF-8 become lone surrogates, which no id has."""
    text = unquote(segment, errors="surrogateescape")
    return text[1:] if text.startswith("~") and _DOTS.fullmatch(text) else text


def workflow_path(workflow_id: str, *segments: str) -> str:
    """Returns the path of a workflow, or of something below it."""
    return "/".join(("/workflows", *map(encode_segment, (workflow_id, *segments))))
