"""The data of a workflow's page: its family, its attempts and moves, and the actions that are allowed."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from holdfast.console.bars import Row
from holdfast.console.history import History, move
from holdfast.console.labels import label
from holdfast.console.shown_rows import Ask, with_shown_rows
from holdfast.durable.names import why_unknown
from holdfast.errors import UnknownWorkflow
from holdfast.statuses import ENDED, RESUMABLE, TERMINAL

NODE_LIMIT = 500
_DIGITS = re.compile(r"([0-9]+)")
_EVER = 1e12


async def read_tree(ask: Ask, workflow_id: str, own_applications: Collection[str]) -> dict[str, Any]:
    """Reads a workflow's page except its steps. `own_applications` run this release's workflows.

    Raises ``UnknownWorkflow``, ``DatabaseUnavailable``."""
    ask = with_shown_rows(ask)
    roots = await ask("console_root", workflow_id=workflow_id)
    if not roots:
        raise UnknownWorkflow
    root_id, now = roots[0]["root_id"], roots[0]["now"]
    rows = await ask("console_tree", workflow_id=root_id, limit=NODE_LIMIT + 1)
    truncated = len(rows) > NODE_LIMIT
    nodes = sorted(rows[:NODE_LIMIT], key=_order)
    own_rows = [row for row in rows if row["workflow_id"] == workflow_id]
    if not own_rows:  # below the limit of a large family
        own_rows = (await ask("console_tree", workflow_id=workflow_id, limit=1))[:1]
        nodes += own_rows
    if not own_rows:
        raise UnknownWorkflow
    moves = await ask("console_moves_of", workflow_id=workflow_id)
    history = History(window_seconds=_EVER, bar_limit=NODE_LIMIT, move_limit=NODE_LIMIT)
    inputs = {workflow_id: own_rows[0]["inputs"] or ""}
    history.attempts(own_rows, inputs, now)
    history.moved(moves, inputs, now)
    attempts = sorted(history.bars.items.values(), key=lambda bar: bar["started_at"])
    states = await ask("console_states", executor_ids=_executors(nodes, moves))
    known = {row["executor_id"]: row["state"] for row in states}
    stranded = (await ask("console_stranded", workflow_id=workflow_id))[0]["stranded"]
    return {
        "now": now,
        "workflow_id": workflow_id,
        "root_id": root_id,
        "truncated": truncated,
        "nodes": [_node(row) for row in nodes],
        "attempts": attempts,
        "moves": [move(row) for row in moves],
        "executors": known,
        "actions": _actions(own_rows[0], own_applications, stranded=stranded)
        | {"delete": _why_not_deleted(own_rows[0], nodes)},
    }


def _order(row: Row) -> tuple[Any, ...]:
    """Orders a family by level, creation and the numbers in its ids: a batch is stored at one moment."""
    parts = _DIGITS.split(row["workflow_id"])
    numbers = parts[1::2]
    natural = [(text, 0, "") for text in parts]
    natural[1::2] = [("", len(number.lstrip("0")), number.lstrip("0")) for number in numbers]
    return row["level"], row["created_ms"], natural


def _executors(nodes: list[Row], moves: list[Row]) -> list[str]:
    ids = {row["executor_id"] for row in nodes}
    ids |= {row[name] for row in moves for name in ("from_executor", "to_executor")}
    return sorted(executor_id for executor_id in ids if executor_id)[: 2 * NODE_LIMIT]


def _node(row: Row) -> dict[str, Any]:
    columns = (
        "workflow_id",
        "parent_workflow_id",
        "name",
        "status",
        "executor_id",
        "queue",
        "application",
        "version",
        "attempts",
    )
    times = {"created_at": "created_ms", "started_at": "started_ms", "ended_at": "ended_ms"}
    return {
        **{name: row[name] for name in columns},
        "label": label(row["name"], row["instance_name"], row["inputs"]),
        **{name: None if row[column] is None else row[column] / 1000 for name, column in times.items()},
    }


def _actions(row: Row, own_applications: Collection[str], *, stranded: bool) -> dict[str, str | None]:
    """Returns for each action None if it is allowed, else the reason why it is not."""
    status = row["status"]
    unknown = why_unknown(own_applications, row["application"], row["name"])
    resumable = status in RESUMABLE
    return {
        "cancel": f"It has ended with {status}." if status in ENDED else None,
        "resume": unknown if resumable else f"It is {status}; only cancelled and parked ones can be resumed.",
        "reopen": unknown
        if status == "ERROR"
        else f"It is {status}; only what ended with ERROR can be reopened.",
        "fork": unknown,
        "adopt": None if stranded else "Its version is run by a live executor, or it has ended.",
    }


def _why_not_deleted(row: Row, nodes: list[Row]) -> str | None:
    """Returns why a workflow cannot be deleted. Of a large family the parent may be unknown here."""
    if row["status"] not in TERMINAL:
        return f"It is {row['status']}; only what has ended can be deleted."
    parents = [node for node in nodes if node["workflow_id"] == row["parent_workflow_id"]]
    if any(node["status"] not in ("SUCCESS", "ERROR") for node in parents):
        return f"Its parent is {parents[0]['status']} and may still need its result."
    return None
