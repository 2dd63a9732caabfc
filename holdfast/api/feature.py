"""What an installation adds to the HTTP application: one object for each of its features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI

from holdfast.console.page_data import Pulse
from holdfast.settings import Settings

if TYPE_CHECKING:
    from holdfast.process.process import Process


def _nothing(*_: Any) -> None:
    """The default of the hooks."""


@dataclass(frozen=True)
class Feature:
    """Routes, and two hooks: `prepare` puts state on the application before the first request, `describe`
    edits the schemas of the OpenAPI document by what the settings allow. `pulse` has a lane on the page.
    """

    router: APIRouter
    prepare: Callable[[FastAPI, Process], None] = _nothing
    describe: Callable[[dict[str, Any], Settings], None] = _nothing
    pulse: Pulse | None = None
