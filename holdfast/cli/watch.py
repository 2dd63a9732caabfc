"""``holdfast watch``: the console in a terminal: executors, takeovers, queues, and what applications add."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from holdfast.cli.extensions import watch_lanes, watch_tables
from holdfast.cli.shown import (
    Api,
    JsonOption,
    Refused,
    Unreachable,
    UrlOption,
    age,
    console,
    plain_errors,
    show,
    table,
)

WINDOW_SECONDS = 60.0
WIDTH = 60
NARROW_WIDTH = 30
NARROW_TERMINAL = 120
MOVES = 6
SLOW_CLAIM_SECONDS = 0.5

_LEVELS = " ▁▂▃▄▅▆▇█"
_SHAPES = {"live": "●", "draining": "◐", "drained": "○", "dead": "✖"}
_COLOURS = {"live": "green", "draining": "yellow", "drained": "yellow", "dead": "red"}


def watch(
    once: Annotated[bool, typer.Option("--once", metavar="", help="show it once and end")] = False,
    every: Annotated[float, typer.Option(min=0.2, help="seconds between two polls")] = 1.0,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show executors with what they run, takeovers, queues and batches, live until Ctrl-C."""
    with plain_errors():
        api = Api(url)
        if once or as_json:
            data = overview(api)
            show(data, as_json=as_json, human=lambda: picture(data))
            return
        last: dict[str, Any] | None = None
        with Live(console=console, refresh_per_second=4, transient=False) as live:
            while True:
                try:
                    last = overview(api)
                    live.update(picture(last))
                except (Unreachable, Refused) as error:
                    # The last data stays visible, as on the page.
                    notice = Text(f"waiting for {error}", style="bold red")
                    live.update(Group(notice, *([picture(last)] if last else [])))
                time.sleep(every)


def overview(api: Api) -> dict[str, Any]:
    """Returns the console's snapshot of the last minute, and what applications add to it."""
    data: dict[str, Any] = api.get("/console/snapshot")
    since = data["now"] - WINDOW_SECONDS
    up = data["database"]["up"]
    extra = {each.name: each.read(api) if up else [] for each in watch_tables()}
    recent = {
        "executors": [e for e in data["executors"] if e["ended_at"] is None or e["ended_at"] > since],
        "bars": [bar for bar in data["bars"] if bar["ended_at"] is None or bar["ended_at"] > since],
        "moves": [move for move in data["moves"] if move["released_at"] > since],
        "pulses": [pulse for pulse in data["pulses"] if pulse["scheduled_at"] > since],
    }
    kept = ("now", "database", "queues", "counts", "last_takeover")
    return {**{name: data[name] for name in kept}, **recent, **extra}


def picture(data: dict[str, Any]) -> Group:
    """Converts the data to rich's form."""
    parts: list[Any] = [_sentence(data), "", _lanes(data), ""]
    moves = [
        [
            m["workflow_id"],
            f"{data['now'] - m['released_at']:.0f} s ago",
            m["kind"],
            m["reason"],
            m["from"],
            m["to"],
        ]
        for m in sorted(data["moves"], key=lambda move: -move["released_at"])[:MOVES]
    ]
    if moves:
        columns = ["workflow", "when", "kind", "reason", "from", "to"]
        parts += [table("latest moves", columns, moves, droppable=["kind", "reason"]), ""]
    queues = [[q["queue"], q["depth"], age(q["oldest_age_seconds"])] for q in data["queues"] if q["depth"]]
    parts += [table("waiting" if queues else "nothing waits", ["queue", "workflows", "oldest"], queues), ""]
    return Group(*parts, *(each.draw(data[each.name]) for each in watch_tables()))


def _sentence(data: dict[str, Any]) -> Text:
    counts, last = data["counts"], data["last_takeover"]
    if not data["database"]["up"]:
        away = data["now"] - data["database"]["since"]
        return Text(
            f"PostgreSQL has been away for {away:.0f} s; these are its last known figures.", "bold red"
        )
    workers = sum(e["role"] == "worker" and e["state"] == "live" for e in data["executors"])
    text = f"Workers live: {workers}. Workflows running: {counts['running']}, waiting: {counts['queued']}."
    if last:
        ago = data["now"] - last["at"]
        waited = last.get("slot_wait_seconds") or 0.0
        slow = f", then waited up to {waited:.1f} s for a free slot" if waited >= SLOW_CLAIM_SECONDS else ""
        text += f" Last takeover {ago:.0f} s ago: {last['workflows']} in {last['seconds']:.2f} s{slow}."
    for name in ("orphaned", "stranded", "parked"):
        if counts[name]:
            text += f" {counts[name]} {name}."
    needs_attention = not workers or counts["orphaned"] or counts["stranded"] or counts["parked"]
    return Text(text, style="bold yellow" if needs_attention else "bold")


def _lanes(data: dict[str, Any]) -> Any:
    rows: list[list[Any]] = []
    width = WIDTH if console.width >= NARROW_TERMINAL else NARROW_WIDTH
    for executor in sorted(data["executors"], key=lambda e: (e["role"] != "worker", e["started_at"])):
        state, ended = executor["state"], executor["ended_at"]
        mine = [bar for bar in data["bars"] if bar["executor_id"] == executor["executor_id"]]
        beat = age(max(0.0, data["now"] - executor["heartbeat_at"])) if ended is None else None
        fate = (
            f"{executor['reason']}, by {executor['taken_over_by']}"
            if executor["taken_over_by"]
            else executor["reason"]
        )
        rows.append(
            [
                executor["executor_id"],
                Text(f"{_SHAPES[state]} {state}", style=_COLOURS[state]),
                beat,
                f"{executor['in_flight']} / {executor['slots']}"
                if executor["slots"]
                else executor["in_flight"],
                lane(mine, data["now"], mark=_SHAPES[state] if ended else None, ended_at=ended, width=width),
                fate,
            ]
        )
    title = f"{len(rows)} executors"
    rows += [[each.name, None, None, None, each.draw(data), None] for each in watch_lanes()]
    columns = ["executor", "state", "beat", "in flight", f"last {WINDOW_SECONDS:.0f} s", "reason"]
    return table(title, columns, rows, droppable=["reason", "beat"])


def lane(
    bars: list[dict[str, Any]],
    now: float,
    *,
    mark: str | None = None,
    ended_at: float | None = None,
    width: int = WIDTH,
) -> str:
    """Draws concurrency as ``width`` characters (at most eight levels), and ``mark`` at the end."""
    step = WINDOW_SECONDS / width
    text = []
    for place in range(width):
        begin = now - WINDOW_SECONDS + place * step
        if mark and ended_at is not None and begin <= ended_at < begin + step:
            text.append(mark)
            continue
        busy = sum(
            bar["started_at"] < begin + step and (bar["ended_at"] is None or bar["ended_at"] >= begin)
            for bar in bars
        )
        text.append(_LEVELS[min(busy, len(_LEVELS) - 1)])
    return "".join(text)
