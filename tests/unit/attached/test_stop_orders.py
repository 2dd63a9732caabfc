"""A drain begins once a stop is requested and the launch is over, whichever comes first."""

from __future__ import annotations

import threading

import pytest

from holdfast.attached.stop_orders import StopOrders


def _wait(orders: StopOrders, limit_seconds: float = 600) -> bool:
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(orders.wait(limit_seconds)), daemon=True)
    thread.start()
    thread.join(20)
    assert found, "it waits"
    return found[0]


def _still_waits(orders: StopOrders) -> bool:
    """Whether a wait is not over yet; it is closed to see that."""
    orders.close()
    return not _wait(orders)


@pytest.mark.parametrize("order", [("stop", "launched"), ("launched", "stop"), ("stop", "stop", "launched")])
def test_both_begin_it(order: tuple[str, ...]) -> None:
    orders = StopOrders()
    for each in order:
        if each == "stop":
            orders.stop("a signal")
        else:
            orders.launched()
    assert _wait(orders) and orders.are_given


def test_one_alone_does_not() -> None:
    stopped, launched = StopOrders(), StopOrders()
    stopped.stop("a signal")
    launched.launched()
    assert _still_waits(stopped) and _still_waits(launched)
    assert (stopped.are_given, launched.are_given, launched.seconds) == (True, False, 0.0)


def test_a_launch_that_hangs_is_waited_for_no_longer_than_the_limit() -> None:
    orders = StopOrders()
    orders.stop("a signal")
    assert _wait(orders, limit_seconds=0.05)


def test_a_launcher_that_waits_for_the_drain_does_not_launch_meanwhile() -> None:
    """DBOS.destroy() in a signal handler, in the middle of DBOS.launch()."""
    orders = StopOrders()
    orders.stop("DBOS.destroy() was called")
    orders.launcher_waits()
    assert _wait(orders)


def test_another_thread_that_waits_does_not_end_the_launch() -> None:
    orders = StopOrders()
    orders.stop("a signal")
    thread = threading.Thread(target=orders.launcher_waits)
    thread.start()
    thread.join()
    assert _still_waits(orders)
