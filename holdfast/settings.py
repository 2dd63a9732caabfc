"""One frozen settings object: environment variables (prefix ``HOLDFAST_``) and ``dbos-config.yaml``.

The database URL and the base name come only from ``dbos-config.yaml``. The ``dbos`` command reads this file
too, so each value has one source. Passwords stay in files (``?passfile=`` in the URL).
"""

from __future__ import annotations

import os
import re
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from holdfast.cpu_quota import available_cpus
from holdfast.executor_settings import OPTIONS, ExecutorSettings
from holdfast.origin import host_name, is_loopback

Role = Literal["api", "worker"]

LEAST_RETENTION_SECONDS = 10_800
"""The counters do not include younger rows yet (two hours and ten minutes), and clients still retry."""
MAX_RETENTION_SECONDS = 100 * 366 * 86_400

STANDSTILL_SECONDS = 60.0
"""A process is unready after a trial has paused its queues for this time, because it takes no other work."""

_VARIABLE = re.compile(r"\$\{(\w+)\}")


def _shared(name: str) -> Any:
    """Returns the field of an option that attached applications have too."""
    option = OPTIONS[name]
    return Field(option.default, gt=option.gt, ge=option.ge, le=option.le, description=option.description)


class Settings(ExecutorSettings, BaseSettings):
    """Every option of a Holdfast process. Times are seconds, sizes bytes.

    A subclass adds the options of an application (`RegisteredWork.settings_class`).

    Raises ``pydantic.ValidationError`` if a value is out of range or two values contradict each other
    (a heartbeat interval longer than the lease, a drain longer than the grace period).
    """

    # An empty value means the default, as .env.example states: an empty path would be the working directory.
    model_config = SettingsConfigDict(
        env_prefix="HOLDFAST_", env_ignore_empty=True, frozen=True, extra="ignore"
    )

    config_file: Path = Field(Path("dbos-config.yaml"), description="the file shared with the dbos command")
    application_version: str = Field(
        "2", pattern=r"^[\w.-]{1,40}$", description="which stored workflows this code can continue"
    )

    modules: str = Field(
        "",
        pattern=r"^(\s*[A-Za-z_][\w.]*\s*(,|$))*$",
        description="user-defined modules, comma-separated: docs/start/your-own-workflow.md",
    )

    bind_host: str = _shared("bind_host")
    api_port: int = Field(8000, ge=0, le=65535, description="HTTP port of the API")
    worker_port: int = Field(
        8001, ge=0, le=65535, description="HTTP port of a worker: livez, readyz, metrics"
    )
    publish_address: str | None = Field(
        None, description="where a container's API is published (Compose says it); none: bind_host is judged"
    )
    allowed_hosts: str = Field(
        "", description="more names, comma-separated, by which the API may be called (Host header)"
    )

    max_body_bytes: int = Field(1_048_576, ge=1024, description="request bodies above it get 413")
    rate_limit: float = Field(
        500.0, ge=0, description="sustained requests per second of one client; 0: no limit"
    )
    rate_burst: int = Field(1000, ge=1, description="requests that one client may send in one burst")
    queue_limit: int = Field(
        100_000, ge=0, description="unfinished workflows from which on new work gets 503; 0: no limit"
    )

    heartbeat_seconds: float = _shared("heartbeat_seconds")
    lease_seconds: float = _shared("lease_seconds")
    sweep_seconds: float = _shared("sweep_seconds")
    second_look_seconds: float = _shared("second_look_seconds")
    crash_limit: int = _shared("crash_limit")
    clock_tolerance_seconds: float = _shared("clock_tolerance_seconds")

    drain_seconds: float = _shared("drain_seconds")
    stop_grace_seconds: float = _shared("stop_grace_seconds")
    abandoned_threads_limit: int = Field(
        16, ge=0, description="threads of cancelled workflows above which a process is replaced"
    )
    database_wait_seconds: float = Field(60.0, ge=0, description="how long a start waits for PostgreSQL")
    database_timeout_seconds: float = _shared("database_timeout_seconds")
    database_pool_size: int = Field(6, ge=2, description="connections of DBOS's own pool in one process")

    cpu_slots: int = Field(0, ge=0, description="child processes for CPU work; 0: the container's CPU quota")

    retention_seconds: float = Field(
        7 * 86_400.0,
        ge=0,
        le=MAX_RETENTION_SECONDS,
        description="age at which finished workflows and old rows are deleted, at least 3 h; 0: never",
    )
    retention_parked_seconds: float = Field(
        0.0,
        ge=0,
        le=MAX_RETENTION_SECONDS,
        description="the same for parked workflows, which an operator should inspect; 0: never",
    )

    otlp_endpoint: str = Field(
        "",
        pattern=r"^(https?://[^\s/?#@]+(/[^\s?#]*)?)?$",
        description="where traces go (OTLP over HTTP, for example http://collector:4318); empty: nowhere",
    )

    admin_token_file: Path | None = Field(
        None,
        description="the token that control operations (drain, cancel, ...) need; none: they are refused",
    )
    require_token: bool = Field(False, description="demands the admin token for every call, reading included")
    chaos: bool = _shared("chaos")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="lowest level logged")

    @model_validator(mode="after")
    def _times_fit_together(self) -> Self:
        self.check_times()
        if 0 < self.retention_seconds < LEAST_RETENTION_SECONDS:
            raise ValueError(
                f"HOLDFAST_RETENTION_SECONDS ({self.retention_seconds:g}) must be 0, or at least "
                f"{LEAST_RETENTION_SECONDS} s: counters count younger rows, and clients repeat their requests"
            )
        if 0 < self.retention_parked_seconds < self.retention_seconds:
            raise ValueError(
                f"HOLDFAST_RETENTION_PARKED_SECONDS ({self.retention_parked_seconds:g}) must be 0, or at "
                f"least HOLDFAST_RETENTION_SECONDS ({self.retention_seconds:g}): parked work is kept longer"
            )
        return self

    @model_validator(mode="after")
    def _hosts_are_names(self) -> Self:
        for name in filter(None, (name.strip() for name in self.allowed_hosts.split(","))):
            if host_name(name) is None:
                raise ValueError(f"HOLDFAST_ALLOWED_HOSTS: {name!r} is no host name; separate them by commas")
        return self

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Returns a process's settings as those of this class. Raises ``TypeError`` if they are others."""
        if not isinstance(settings, cls):
            raise TypeError(f"this process has no {cls.__name__}: see RegisteredWork.settings_class")
        return settings

    @cached_property
    def _dbos_config(self) -> dict[str, Any]:
        text = self.config_file.read_text(encoding="utf-8")
        # Like the dbos command, this replaces ${NAME} as text and supports no defaults.
        expanded = _VARIABLE.sub(lambda m: os.environ.get(m[1], ""), text)
        loaded = yaml.safe_load(expanded)
        if not isinstance(loaded, dict) or "name" not in loaded or "system_database_url" not in loaded:
            raise ValueError(f"{self.config_file} must set name and system_database_url")
        return loaded

    @property
    def database_url(self) -> str:
        """libpq URL of the database, without a password. It may contain several hosts."""
        return _with_every_port(str(self._dbos_config["system_database_url"]))

    def application_name(self, role: Role) -> str:
        """Returns the DBOS application of a role: base name plus role, for example ``holdfast-worker``."""
        return f"{self._dbos_config['name']}-{role}"

    @property
    def application_names(self) -> list[str]:
        """The names of both applications, for listings that span them."""
        return [self.application_name("api"), self.application_name("worker")]

    def version_name(self, role: Role) -> str:
        """Returns the version of a role's application. DBOS requires different names for each application."""
        return f"{role}-{self.application_version}"

    @property
    def module_names(self) -> list[str]:
        """Names of the user-defined modules, in the given order."""
        return [name for part in self.modules.split(",") if (name := part.strip())]

    @property
    def host_names(self) -> frozenset[str]:
        """Names, besides ``localhost`` and addresses, by which the HTTP servers may be called."""
        given = (*self.allowed_hosts.split(","), self.publish_address or "", self.bind_host)
        return frozenset(name for one in given if (name := host_name(one)))

    @property
    def refusal(self) -> str | None:
        """The reason why an API with these settings must not start, or None if it may.

        The published address counts: inside a container, a process listens on all interfaces.
        """
        if self.require_token:
            if self.admin_token_file is None:
                return "HOLDFAST_REQUIRE_TOKEN=true needs HOLDFAST_ADMIN_TOKEN_FILE, a file with a token."
            return None
        name, address = "HOLDFAST_PUBLISH_ADDRESS", self.publish_address
        if not address:
            name, address = "HOLDFAST_BIND_HOST", self.bind_host
        if is_loopback(address):
            return None
        return (
            f"{name}={address} lets others than this machine reach the API, where they would read and start "
            "work without a token. Set HOLDFAST_REQUIRE_TOKEN=true, which demands the admin token for every "
            f"call, or keep to this machine with {name}=127.0.0.1."
        )

    @property
    def slots(self) -> int:
        """Number of child processes for CPU work, at least one."""
        return self.cpu_slots or available_cpus()

    @property
    def late_tick_seconds(self) -> float:
        """Delay from which a process does not fire a tick itself, but leaves it to `Accounting`."""
        return 65.0


@lru_cache
def get_settings() -> Settings:
    """Returns the process's settings, which are read once."""
    return Settings()


def _with_every_port(url: str) -> str:
    """Adds the last host's port to every host without one. libpq would use it for the last host only."""
    parts = urlsplit(url)
    user, at, listed = parts.netloc.rpartition("@")
    hosts = listed.split(",")
    port = re.search(r":\d+$", hosts[-1])
    if len(hosts) == 1 or port is None:
        return url
    hosts = [host if re.search(r":\d+$", host) else host + port[0] for host in hosts]
    return parts._replace(netloc=user + at + ",".join(hosts)).geturl()
