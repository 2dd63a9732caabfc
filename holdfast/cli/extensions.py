"""Commands of an application, and its tables and lanes in ``holdfast watch``.

A package beside `holdfast` on the import path registers them with a module ``holdfast_commands`` that defines
``COMMANDS``, a list of functions as typer takes them. It may define ``TABLES``, a list of `WatchTable`,
``LANES``, a list of `WatchLane`, and ``SUBJECTS``, the `Subjects` of which ``holdfast verify`` checks more
than of any application.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from holdfast.audit.audit import Subjects
from holdfast.cli.shown import Api
from holdfast.installations.embedded import ROOT

MODULE = "holdfast_commands"


@dataclass(frozen=True)
class WatchTable:
    """A table of ``holdfast watch``: its member in the JSON document, how to read it, and how to draw it."""

    name: str
    read: Callable[[Api], list[dict[str, Any]]]
    draw: Callable[[list[dict[str, Any]]], Any]


@dataclass(frozen=True)
class WatchLane:
    """A lane of ``holdfast watch`` below those of the executors: its name, and how to draw the snapshot."""

    name: str
    draw: Callable[[dict[str, Any]], str]


@cache
def _modules() -> list[ModuleType]:
    found = sorted(path.parent.name for path in ROOT.glob(f"*/{MODULE}.py"))
    return [import_module(f"{package}.{MODULE}") for package in found]


def commands() -> list[Callable[..., None]]:
    """Returns the commands of all applications."""
    return [command for module in _modules() for command in module.COMMANDS]


def watch_tables() -> list[WatchTable]:
    """Returns what all applications show in ``holdfast watch``."""
    return [each for module in _modules() for each in getattr(module, "TABLES", ())]


def watch_lanes() -> list[WatchLane]:
    """Returns the lanes that all applications add to ``holdfast watch``."""
    return [each for module in _modules() for each in getattr(module, "LANES", ())]


def subjects() -> Subjects | None:
    """Returns the subjects of the audit, or None if no application has registered any."""
    found = [module.SUBJECTS for module in _modules() if hasattr(module, "SUBJECTS")]
    return found[0] if found else None
