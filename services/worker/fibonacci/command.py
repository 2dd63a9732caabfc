"""``holdfast submit``, and the batches that ``holdfast watch`` shows."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from holdfast.commands import (
    Api,
    JsonOption,
    KeyOption,
    TimeoutOption,
    UrlOption,
    WaitOption,
    WatchTable,
    encode_segment,
    lines_of,
    start_and_follow,
    table,
)

BATCHES_SHOWN = 5


def submit(
    *,
    count: Annotated[int | None, typer.Option(help="how many numbers: 0, 1, 2, … [default: 50]")] = None,
    numbers: Annotated[str | None, typer.Option(help="the numbers themselves: 30,31,32")] = None,
    method: Annotated[str, typer.Option(help="recursive or doubling")] = "recursive",
    sequential: Annotated[
        bool, typer.Option(metavar="", help="each number after the former's result")
    ] = False,
    key: KeyOption = None,
    wait: WaitOption = False,
    timeout: TimeoutOption = 3600.0,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a batch of Fibonacci numbers, and with --wait follow it to its end."""
    body: dict[str, Any] = {"method": method, "sequential": sequential}
    if numbers is not None:
        try:
            body["numbers"] = [int(word) for word in numbers.split(",")]
        except ValueError:
            raise typer.BadParameter("--numbers: whole numbers separated by commas") from None
    if count is not None:
        body["count"] = count
    start_and_follow(
        "/fibonacci/batches",
        body,
        url=url,
        key=key,
        wait=wait,
        timeout=timeout,
        as_json=as_json,
        human=_batch_text,
    )


def _batch_text(batch: dict[str, Any]) -> list[str]:
    shares: dict[str, int] = {}
    for number in batch.get("results", []):
        if number["executor_id"]:
            shares[number["executor_id"]] = shares.get(number["executor_id"], 0) + 1
    shares_text = ", ".join(f"{executor} {count}" for executor, count in sorted(shares.items()))
    error = lines_of(batch["error"]) if batch.get("error") else []
    done = f"{batch['completed']} of {batch.get('total', '?')}"
    return [f"{batch['workflow_id']}: {batch['status']}, {done} numbers ({shares_text})", *error]


def _latest_batches(api: Api) -> list[dict[str, Any]]:
    newest = api.get("/workflows", name="fibonacci.batch", limit=BATCHES_SHOWN)
    batches = [
        api.get(f"/fibonacci/batches/{encode_segment(row['workflow_id'])}")
        for row in newest.get("workflows", [])
    ]
    members = ("workflow_id", "status", "completed", "total")
    return [{name: batch[name] for name in members} for batch in batches]


def _batches_table(batches: list[dict[str, Any]]) -> Any:
    rows = [[b["workflow_id"], b["status"], f"{b['completed']} / {b['total']}"] for b in batches]
    return table("latest batches", ["batch", "status", "done"], rows)


BATCHES = WatchTable("batches", _latest_batches, _batches_table)
