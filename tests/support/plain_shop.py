"""A plain DBOS application for tests, run in a process of its own: default serializer, nothing of Holdfast.

`python -m tests.support.plain_shop URL NAME` launches it; it ends with its standard input.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dbos import DBOS, SetWorkflowID

QUEUE = "carts"


@dataclass
class Cart:
    """An argument that JSON cannot represent."""

    items: list[str]


@DBOS.step(name="shop.reserve")
def reserve(cart: Cart) -> Cart:
    """Returns a value that JSON cannot represent."""
    return Cart([item.upper() for item in cart.items])


@DBOS.workflow(name="shop.checkout")
def checkout(cart: Cart) -> dict[str, Any]:
    """Waits for the payment's message after a step."""
    reserved = reserve(cart)
    DBOS.set_event("state", {"waits": "payment"})
    paid = DBOS.recv("payment", 60)
    return {"reserved": reserved, "paid": paid}


@DBOS.workflow(name="shop.refuse")
def refuse(cart: Cart) -> None:
    """Ends with an error."""
    raise ValueError(f"no {cart.items[0]} left")


@DBOS.workflow(name="shop.parent")
def parent(item: str) -> Cart:
    """Starts a child with an argument, and returns a value, that JSON cannot represent."""
    return DBOS.start_workflow(child, Cart([item])).get_result()


@DBOS.workflow(name="shop.child")
def child(cart: Cart) -> Cart:
    """Returns its argument."""
    return cart


@DBOS.dbos_class()
class Till:
    """Workflows of a class."""

    @staticmethod
    @DBOS.workflow(name="shop.total")
    def total(prices: list[int], *, tip: int = 0) -> dict[str, Any]:
        """Takes positional and keyword arguments of JSON types; returns what only a pickle keeps."""
        return {"total": sum(prices) + tip, "prices": tuple(prices)}


def main(url: str, name: str) -> None:
    """Launches the application and prints `ready`."""
    DBOS(
        config={
            "name": name,
            "system_database_url": url,
            "run_migrations": False,
            "executor_id": f"{name}-{os.getpid()}",
            "log_level": "WARNING",
        }
    )
    DBOS.launch()
    DBOS.register_queue(QUEUE, polling_interval_sec=0.1)
    print("ready", flush=True)
    for line in sys.stdin:
        what, workflow_id, *items = line.split()
        if what == "result":
            print(repr(DBOS.retrieve_workflow(workflow_id).get_result()), flush=True)
            continue
        function = {"checkout": checkout, "refuse": refuse}[what.removeprefix("queued-")]
        with SetWorkflowID(workflow_id):
            if what.startswith("queued-"):
                DBOS.enqueue_workflow(QUEUE, function, Cart(items))
            else:
                DBOS.start_workflow(function, Cart(items))
        print(workflow_id, flush=True)
    os._exit(0)


class Shop:
    """A running application."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def order(self, what: str, workflow_id: str, *items: str) -> str:
        """Starts `checkout`, `refuse`, `queued-checkout` or `queued-refuse` under that id."""
        assert self._ask(what, workflow_id, *items) == workflow_id
        return workflow_id

    def result(self, workflow_id: str) -> str:
        """Returns the `repr` of a workflow's result, as the application reads it."""
        return self._ask("result", workflow_id)

    def _ask(self, *words: str) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@contextmanager
def open_shop(url: str, name: str) -> Iterator[Shop]:
    """Runs the application for the life of the context."""
    words = [sys.executable, "-m", "tests.support.plain_shop", url, name]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield Shop(process)
        finally:
            process.stdin.close()
            process.wait(10)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
