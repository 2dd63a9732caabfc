"""``holdfast bucket``: sums up a bucket of the S3 server, page by page on the workers."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Group

from holdfast.commands import (
    JsonOption,
    KeyOption,
    TimeoutOption,
    UrlOption,
    WaitOption,
    lines_of,
    start_and_follow,
    table,
)


def bucket(
    name: Annotated[str, typer.Argument(help="the bucket")],
    *,
    prefix: Annotated[str, typer.Option(help="only keys that begin so")] = "",
    start_after: Annotated[str, typer.Option(help="only keys after this one")] = "",
    max_pages: Annotated[int | None, typer.Option(help="pages of 1,000 keys at most")] = None,
    key: KeyOption = None,
    wait: WaitOption = False,
    timeout: TimeoutOption = 3600.0,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List a bucket: keys and bytes, the largest folders; with --wait follow it to its end."""
    body: dict[str, Any] = {"prefix": prefix, "start_after": start_after}
    if max_pages is not None:
        body["max_pages"] = max_pages
    start_and_follow(
        f"/buckets/{name}/listing",
        body,
        url=url,
        key=key,
        wait=wait,
        timeout=timeout,
        as_json=as_json,
        human=_text,
        total="pages",
    )


def _text(listing: dict[str, Any]) -> Any:
    report = listing.get("report")
    if report is None:
        error = lines_of(listing["error"]) if listing.get("error") else []
        return [f"{listing['workflow_id']}: {listing['status']}", *error]
    rows = [[one["prefix"], one["keys"], one["bytes"]] for one in (*report["top"], report["loose"])]
    rest = "" if report["complete"] else f"; not complete: --start-after {report['next_start_after']!r}"
    title = f"{report['keys']} keys, {report['bytes']} bytes, {report['folders']} folders{rest}"
    return Group(table(title, ["folder", "keys", "bytes"], rows))
