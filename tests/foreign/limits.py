"""The limits of the queues that `programs/orders.py` declares in its code hold, over two processes."""

from __future__ import annotations

from typing import Any

from tests.foreign.ground import Ground, Lost, Process, wait_success

_CONCURRENT, _RATED = 9, 5
_ALL, _IN_ONE_PROCESS = 3, 2
_STARTS, _PERIOD_MS = 2, 1500


def limits_hold(ground: Ground, pair: tuple[Process, Process]) -> None:
    """Enqueues more than each queue may run, and looks when each workflow ran, and where. Raises `Lost`."""
    names = [f"concurrent-{number}" for number in range(_CONCURRENT)]
    names += [f"rated-{number}" for number in range(_RATED)]
    for number, name in enumerate(names):
        pair[number % 2].command("enqueue", name)
    for name in names:
        wait_success(ground, name)
    if wrong := broken(_runs(ground)):
        raise Lost("; ".join(wrong))


def broken(runs: list[dict[str, Any]]) -> list[str]:
    """Returns which limits these runs broke."""
    concurrent = [run for run in runs if run["queue"] == "concurrent"]
    rated = sorted(run["began"] for run in runs if run["queue"] == "rated")
    at_once = max(len(_beside(run, concurrent)) for run in concurrent)
    in_one = max(
        len([each for each in _beside(run, concurrent) if each["executor"] == run["executor"]])
        for run in concurrent
    )
    close = [
        first for first, later in zip(rated, rated[_STARTS:], strict=False) if later - first < _PERIOD_MS
    ]
    wrong = []
    if at_once > _ALL:
        wrong.append(f"{at_once} workflows ran at once instead of {_ALL}")
    if in_one > _IN_ONE_PROCESS:
        wrong.append(f"{in_one} workflows ran at once in one process instead of {_IN_ONE_PROCESS}")
    if close:
        wrong.append(f"more than {_STARTS} started within {_PERIOD_MS} ms: {rated}")
    return wrong


def _beside(run: dict[str, Any], runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the runs, itself among them, that were under way when this one began."""
    return [each for each in runs if each["began"] <= run["began"] < each["ended"]]


def _runs(ground: Ground) -> list[dict[str, Any]]:
    connection = ground.server.admin(ground.database)
    try:
        cursor = connection.cursor()
        cursor.execute(
            "SELECT queue_name AS queue, executor_id AS executor, started_at_epoch_ms AS began,"
            " updated_at AS ended FROM dbos.workflow_status WHERE queue_name IN ('concurrent', 'rated')"
        )
        return [dict(row) for row in cursor.fetchall()]
    finally:
        connection.close()
