"""Limits what is logged about an outage of PostgreSQL."""

from __future__ import annotations

import logging
import time

from holdfast.postgres.outage import is_read_only


class OutageLog:
    """Limits the log lines about an outage: the first failure, then one every 10 s, then the recovery.

    A lost session is retried ten times per second.
    """

    EVERY_SECONDS = 10.0

    def __init__(self, logger: logging.Logger, text: str, *, action: str) -> None:
        self._logger = logger
        self._text = text
        self._action = action
        self._since: float | None = None
        self._logged_at = 0.0
        self.reason: str | None = None
        """A short reason for the outage, if the last failure has one."""

    def record_failure(self, error: BaseException) -> None:
        """Records a failure, and logs it unless one was logged less than 10 s ago."""
        self.reason = "read-only" if is_read_only(error) else None
        now = time.monotonic()
        if self._since is not None and now - self._logged_at < self.EVERY_SECONDS:
            return
        self._since = self._since or now
        self._logged_at = now
        self._logger.warning(
            "%s, trying again: %s", self._text, str(error).strip(), extra={"action": self._action}
        )

    def record_success(self) -> None:
        """Records a success. If an outage was going on, ends it and logs how long it lasted."""
        self.reason = None
        if self._since is not None:
            seconds = time.monotonic() - self._since
            self._since = None
            self._logger.info(
                "%s: over after %.1f s", self._text, seconds, extra={"action": f"{self._action}.over"}
            )
