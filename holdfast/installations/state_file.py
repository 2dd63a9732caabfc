"""``native.json``: the supervisor's report about its processes, for other commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_NAME = "native.json"


def read_state(home: Path) -> dict[str, Any]:
    """Returns ``native.json`` of this directory, empty if there is none."""
    try:
        loaded = json.loads((home / _NAME).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def write_state(home: Path, state: dict[str, Any]) -> None:
    """Writes the file atomically, so that concurrent readers see a complete one."""
    new = home / f"{_NAME}.new"
    new.write_text(json.dumps(state, indent=1), "utf-8")
    new.replace(home / _NAME)


def remove_state(home: Path) -> None:
    """Deletes the file: nothing runs any more."""
    (home / _NAME).unlink(missing_ok=True)
