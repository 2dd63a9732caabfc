"""Processes pages of users with a cached credential, which has process scope: it ends with the process.

The secret is used inside a step and never returned from one. Workflows and steps record their return values,
so only the fingerprint leaves a step.
"""

from __future__ import annotations

import secrets
import time
from typing import Any, get_args

from dbos import DBOS, SetWorkflowID

from holdfast.runtime import resources, timed_step, traced
from holdfast.settings import Settings
from services.api.users.credentials import CachedCredential, Use
from services.api.users.declaration import PAGE, PAGE_QUEUE, PROCESS
from services.api.users.errors import CredentialUnavailable
from services.api.users.metrics import CREDENTIAL_REQUESTS, CREDENTIAL_SECONDS
from services.api.users.settings import CredentialSettings

_cache: CachedCredential | None = None


def open_cache(settings: CredentialSettings) -> CachedCredential:
    """Creates the process's cache. The application's lifespan calls it and :func:`close_cache`."""
    global _cache  # noqa: PLW0603
    fallback = secrets.token_urlsafe(24)

    def fetch() -> str:
        begun = time.perf_counter()
        time.sleep(settings.credential_fetch_seconds)
        try:
            if settings.credential_file is None:
                return fallback
            return settings.credential_file.read_text(encoding="utf-8").strip()
        finally:
            CREDENTIAL_SECONDS.observe(time.perf_counter() - begun)

    def count(result: Use) -> None:
        CREDENTIAL_REQUESTS.labels(result=result).inc()

    for result in get_args(Use):
        CREDENTIAL_REQUESTS.labels(result=result)
    _cache = CachedCredential(
        fetch, ttl_seconds=settings.credential_ttl_seconds, clock=time.monotonic, on_use=count
    )
    return _cache


def close_cache() -> None:
    """Discards the cache with its credential."""
    global _cache  # noqa: PLW0603
    if _cache is not None:
        _cache.invalidate()
    _cache = None


def cache() -> CachedCredential | None:
    """Returns the process's cache, None before start and after close."""
    return _cache


@DBOS.step(name="users.process_one")
def process_one(page: int, user: int) -> dict[str, Any]:
    """Processes one user with the credential. Returns the executor and the fingerprint."""
    with timed_step("users.process_one"):
        if _cache is None:
            raise CredentialUnavailable
        credential = _cache.get()
        return {
            "page": page,
            "user": user,
            "credential": credential.fingerprint,
            "executor_id": resources().executor_id,
        }


@DBOS.workflow(name=PAGE.name, max_recovery_attempts=None)
def process_page(page: int, page_size: int) -> list[dict[str, Any]]:
    """Processes one page of users, with one step per user."""
    return [process_one(page, page * page_size + i) for i in range(page_size)]


@DBOS.workflow(name=PROCESS.name, max_recovery_attempts=None)
def process_users(pages: int, page_size: int) -> dict[str, Any]:
    """Processes all pages, each as a nested workflow on its queue. Reports this process's cache use."""
    workflow_id = DBOS.workflow_id
    handles = []
    for page in range(pages):
        with SetWorkflowID(f"{workflow_id}-page-{page}"), traced():
            handles.append(DBOS.enqueue_workflow(PAGE_QUEUE.name, process_page, page, page_size))
    users = [user for handle in handles for user in handle.get_result()]
    return {
        "workflow_id": workflow_id,
        "pages": pages,
        "users": users,
        "finished_by": resources().executor_id,
        "fingerprints": sorted({user["credential"] for user in users}),
        "cache": _cache.snapshot() if _cache is not None else None,
    }


def start(settings: Settings) -> None:
    """Opens the credential cache before the process's launch."""
    open_cache(CredentialSettings.of(settings))


def close() -> None:
    """Closes the credential cache at the process's end."""
    close_cache()
