"""The options of the credential cache."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from holdfast.settings import Settings


class CredentialSettings(Settings):
    """A process's settings with those of the credential cache."""

    credential_file: Path | None = Field(None, description="the secret that the credential cache serves")
    credential_ttl_seconds: float = Field(60.0, gt=0, description="age at which a cached credential expires")
    credential_fetch_seconds: float = Field(0.2, ge=0, description="delay of the credential's source")
