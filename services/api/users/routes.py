"""User pages, and the credential cache of this process."""

from __future__ import annotations

import os
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Request
from starlette.responses import Response

from holdfast.web import (
    CONTROL,
    REFUSALS,
    STARTED,
    Feature,
    IdempotencyKey,
    Work,
    accepting,
    answer,
    documented,
    process_of,
    submit,
)
from services.api.users import workflows as users
from services.api.users.credentials import CachedCredential
from services.api.users.declaration import PROCESS
from services.api.users.errors import CredentialUnavailable
from services.api.users.models import Cache, UsersRequest

router = APIRouter(tags=["users"])


@router.post(
    "/users/pages",
    status_code=202,
    dependencies=[Depends(accepting)],
    responses=STARTED,
)
async def process_users(
    request: Request,
    body: Annotated[UsersRequest, Body(default_factory=UsersRequest)],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Process pages of users in nested workflows whose steps use the cached credential."""
    work = Work(PROCESS.name, (body.pages, body.page_size), "users")
    return await answer(request, await submit(request, work, body, idempotency_key), wait=body.wait)


@router.get("/cache", responses=documented(500, 503))
async def show_cache(request: Request) -> Cache:
    """Hits, misses, age, expiry and fingerprint of this process's cache; never the secret."""
    return _snapshot(request, _cache())


@router.delete(
    "/cache",
    dependencies=CONTROL,
    responses=REFUSALS | documented(400, 408, 413, 415, 422, 500, 503),
)
async def invalidate_cache(request: Request) -> Cache:
    """Forget the cached credential; the next use fetches it anew."""
    cache = _cache()
    cache.invalidate()
    return _snapshot(request, cache)


def _cache() -> CachedCredential:
    cache = users.cache()
    if cache is None:
        raise CredentialUnavailable("This process has no credential cache yet. Try again shortly.")
    return cache


def _snapshot(request: Request, cache: CachedCredential) -> Cache:
    return Cache(executor_id=process_of(request).executor_id, pid=os.getpid(), **cache.snapshot())


FEATURE = Feature(router)
