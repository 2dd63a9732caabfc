"""The options of an attached application. Its database and name come from its own DBOS configuration."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PrivateAttr

from holdfast.dbos_adapter.launching import Configured
from holdfast.settings import Settings


class AttachedSettings(Settings):
    """`Settings` for one attached application. Reads the same environment variables ``HOLDFAST_*``."""

    required: bool = Field(False, description="the application does not start without Holdfast's protection")
    on_fenced: Literal["exit", "log"] = Field(
        "exit", description="what a process does that peers declared dead: end with code 75, or only log it"
    )
    port: int | None = Field(
        None, ge=0, le=65535, description="port for /livez, /readyz and /metrics; none: no server"
    )
    adopt_after_seconds: float = Field(
        0.0, ge=0, description="age from which work of a version without a live executor is adopted; 0: never"
    )
    database_wait_seconds: float = Field(15.0, ge=0, description="how long a launch waits for PostgreSQL")
    _database_url: str = PrivateAttr("")
    _application: str = PrivateAttr("")

    @classmethod
    def for_application(cls, configured: Configured) -> Self:
        """Reads the settings for this application. Raises ``pydantic.ValidationError``."""
        settings = cls()
        settings._database_url = configured.database_url
        settings._application = configured.application
        return settings

    @property
    def database_url(self) -> str:
        """libpq's connection string of the application's system database."""
        return self._database_url

    @property
    def application_names(self) -> list[str]:
        """The name of the attached application."""
        return [self._application]
