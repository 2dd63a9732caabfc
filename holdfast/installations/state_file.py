"""``native.json``: what the supervisor tells other commands about its processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_NAME = "native.json"


def read_state(home: Path) -> dict[str, Any]:
    """What ``native.json`` of this directory says; empty when there is none."""
    try:
        loaded = json.loads((home / _NAME).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def write_state(home: Path, state: dict[str, Any]) -> None:
    """All of it or nothing, for who reads it meanwhile."""
    new = home / f"{_NAME}.new"
    new.write_text(json.dumps(state, indent=1), "utf-8")
    new.replace(home / _NAME)


def remove_state(home: Path) -> None:
    """Nothing runs any more."""
    (home / _NAME).unlink(missing_ok=True)
