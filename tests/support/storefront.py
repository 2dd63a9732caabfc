"""Processes of examples/storefront against one database, alone or under ``holdfast run``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from holdfast.installations.embedded import die_with_parent
from tests.support.stack import ROOT, clean_environment, free_ports, wait_for

FOLDER = ROOT / "examples" / "storefront"


@dataclass
class ShopProcess:
    """One process of the shop, with its HTTP address."""

    process: subprocess.Popen[bytes]
    http: httpx.Client
    log: Path

    def answers(self) -> bool:
        """Whether it serves HTTP. Fails if it has ended."""
        assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.log.read_text()}"
        try:
            return self.http.get("/health").is_success
        except httpx.TransportError:
            return False

    def place_order(self, article: str = "pen", pieces: int = 1) -> dict[str, Any]:
        """Places an order and returns what the shop says."""
        answer: dict[str, Any] = (
            self.http.post("/orders", params={"article": article, "pieces": pieces}).raise_for_status().json()
        )
        return answer

    def pay(self, order_id: str, *, paid: bool = True) -> None:
        """Pays an order, or refuses to."""
        self.http.post(f"/orders/{order_id}/payment", params={"paid": paid}).raise_for_status()

    def order(self, order_id: str) -> dict[str, Any]:
        """Returns the state of an order."""
        state: dict[str, Any] = self.http.get(f"/orders/{order_id}").raise_for_status().json()
        return state

    def wait_order(self, order_id: str, status: str, seconds: float = 30) -> dict[str, Any]:
        """Waits until an order has this status and returns its state."""
        wait_for(lambda: self.order(order_id)["status"] == status, seconds, f"{order_id} is {status}")
        return self.order(order_id)

    def kill(self) -> None:
        """Kills the process with SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


@dataclass
class Shop:
    """Starts processes of the shop; ``under`` is what comes in front of its command."""

    database_url: str
    folder: Path
    under: Sequence[str] = ()
    processes: list[ShopProcess] = field(default_factory=list)

    def start(self, **settings: str) -> ShopProcess:
        """Starts a process and waits until it serves HTTP."""
        port = free_ports(1)
        log = self.folder / f"shop-{len(self.processes)}.log"
        environment = clean_environment(
            **settings,
            DBOS_SYSTEM_DATABASE_URL=self.database_url,
            SHOP_PORT=str(port),
            PYTHONPATH=str(ROOT),
        )
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*self.under, sys.executable, "main.py"],
                cwd=FOLDER,
                env={**environment, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509 - no thread runs here that matters
            )
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=15, trust_env=False)
        started = ShopProcess(process, client, log)
        self.processes.append(started)
        wait_for(started.answers, 60, "the shop serves HTTP")
        return started

    def close(self) -> None:
        """Kills what still runs."""
        for shop in self.processes:
            shop.http.close()
            if shop.process.poll() is None:
                shop.kill()
