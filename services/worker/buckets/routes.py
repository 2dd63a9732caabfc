"""Starts and shows listings of S3 buckets. Only workers talk to the S3 server."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request
from pydantic import ValidationError
from starlette.responses import Response

from holdfast.errors import InvalidRequest, UnknownWorkflow
from holdfast.settings import Settings
from holdfast.web import (
    Accepted,
    Feature,
    Finished,
    IdempotencyKey,
    Work,
    WorkflowId,
    accepting,
    answer,
    documented,
    error_text,
    find,
    kind_of,
    process_of,
    submit,
)
from services.worker.buckets import workflows
from services.worker.buckets.models import BucketName, Listing, ListingReport, ListingRequest
from services.worker.buckets.settings import BucketSettings

router = APIRouter(tags=["buckets"])


@router.post(
    "/buckets/{bucket}/listing",
    status_code=202,
    dependencies=[Depends(accepting)],
    responses={
        200: {"model": Finished, "description": "`wait` was true and the listing has ended"},
        202: {"model": Accepted, "description": "accepted; Location is the address of its status"},
        **documented(400, 408, 409, 413, 415, 422, 500, 503),
    },
)
async def start_listing(
    request: Request,
    bucket: BucketName,
    body: Annotated[ListingRequest, Body(default_factory=ListingRequest)],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """List a bucket: keys and bytes, the largest folders, one queued workflow a page.

    A worker asks the S3 server (HOLDFAST_S3_ENDPOINT): a missing bucket or wrong credentials end the
    workflow with an error that says so, a busy or slow server is tried again.
    """
    most = BucketSettings.of(process_of(request).settings).s3_max_pages
    if body.max_pages is not None and body.max_pages > most:
        raise InvalidRequest(f"max_pages: a listing has at most {most} pages here.", field="max_pages")
    args = (bucket, body.prefix, body.start_after, body.page_size, body.max_pages or most)
    accepted = await submit(request, Work(workflows.listing.name, args, "listing"), body, idempotency_key)
    location = f"/buckets/{bucket}/listing/{accepted.workflow_id}"
    return await answer(request, accepted, wait=body.wait, location=location)


@router.get("/buckets/{bucket}/listing/{workflow_id}", responses=documented(404, 422, 500, 503))
async def show_listing(request: Request, bucket: BucketName, workflow_id: WorkflowId) -> Listing:
    """Progress, and the report when it has ended."""
    process = process_of(request)
    row = await process.gateway.call(find, process.gateway.client, workflow_id, payload=True)
    if row is None or row.name != workflows.listing.name or _bucket(row.input) != bucket:
        raise UnknownWorkflow(
            "There is no listing of this bucket with this id. GET /workflows?name=buckets.listing lists them."
        )
    [progress] = await process.gateway.ops("listing_progress", workflow_id=workflow_id)
    report, error = None, error_text(row.error)
    if row.status == "SUCCESS":
        try:
            report = ListingReport.model_validate(row.output)
        except ValidationError:
            error = "the stored report can't be read"
    # A finished listing has its sums in its own output, even after its pages were deleted.
    if report is not None:
        progress = {
            "pages": report.pages,
            "completed": report.pages,
            "keys": report.keys,
            "bytes": report.bytes,
        }
    return Listing(
        workflow_id=workflow_id, bucket=bucket, status=row.status, **progress, report=report, error=error
    )


def _bucket(given: Any) -> Any:
    """Returns the bucket of a stored input; None if it is not readable."""
    args = given["args"] if isinstance(given, dict) else ()
    return args[0] if args else None


def describe(schemas: dict[str, Any], settings: Settings) -> None:
    """Adds this installation's limits to the OpenAPI schemas, so that clients know them in advance."""
    kind_of(schemas["ListingRequest"], "max_pages")["maximum"] = BucketSettings.of(settings).s3_max_pages


FEATURE = Feature(router, describe=describe)
