"""examples/storefront as a new user starts it, and each of its containers killed while a checkout waits."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.stack import clean_environment, free_ports, wait_for
from tests.support.storefront import FOLDER

pytestmark = [pytest.mark.container, pytest.mark.timeout(900)]

LONG_RUNNING = {"postgres": 1, "api": 1, "worker": 2, "storefront": 2}


class Storefront:
    """A project of its own, started in the example's folder. Nothing exists before, not even the image."""

    def __init__(self) -> None:
        self.project = f"holdfast-test-{secrets.token_hex(4)}"
        self.image = f"{self.project}:new"
        port = free_ports(1 + LONG_RUNNING["storefront"])
        self.environment = clean_environment(
            COMPOSE_PROJECT_NAME=self.project,
            HOLDFAST_IMAGE=self.image,
            HOLDFAST_API_PORT=str(port),
            SHOP_PORTS=f"{port + 1}-{port + 2}",
        )
        self.http = httpx.Client(
            timeout=20, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        )
        self.api_url = f"http://127.0.0.1:{port}"

    def run(self, *command: str, timeout: float = 120) -> str:
        done = subprocess.run(
            command, cwd=FOLDER, env=self.environment, capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout.strip()

    def up(self) -> None:
        """Builds what is missing, starts what does not run, and waits until all answers."""
        self.run("docker", "compose", "up", "--detach", timeout=600)
        wait_for(lambda: len(self.shops()) == LONG_RUNNING["storefront"], 60, "both shops answer")
        wait_for(lambda: self.http.get(f"{self.api_url}/readyz").is_success, 60, "the API is ready")

    def containers(self, service: str) -> list[str]:
        """Returns the names of a service's running containers."""
        lines = self.run("docker", "compose", "ps", "--format", "json", service).splitlines()
        return sorted(entry["Name"] for entry in map(json.loads, lines) if entry["State"] == "running")

    def shops(self) -> dict[str, str]:
        """Returns the addresses of the shops that answer, by container."""
        found = {}
        for container in self.containers("storefront"):
            url = f"http://{self.run('docker', 'port', container, '8080')}"
            try:
                if self.http.get(f"{url}/health").is_success:
                    found[container] = url
            except httpx.TransportError:
                continue
        return found

    def ask(self, method: str, url: str, **params: Any) -> Any:
        return self.http.request(method, url, params=params).raise_for_status().json()

    def ask_any_shop(self, method: str, path: str) -> Any:
        """Returns the answer of the first shop that has one, None if none has."""
        for url in self.shops().values():
            try:
                answer = self.http.request(method, url + path)
            except httpx.TransportError:
                continue
            if answer.is_success:
                return answer.json()
        return None

    def logs(self) -> str:
        """Returns the end of every container's log, which pytest shows after a failure."""
        return self.run("docker", "compose", "logs", "--no-color", "--tail", "40")

    def query(self, statement: str) -> list[Any]:
        psql = ("psql", "--no-psqlrc", "-At", "-U", "postgres", "-d", "holdfast")
        whole = f"SELECT coalesce(json_agg(t), '[]') FROM ({statement}) AS t"
        found: list[Any] = json.loads(
            self.run("docker", "compose", "exec", "-T", "postgres", *psql, "-c", whole)
        )
        return found

    def kill_during_a_checkout(self, victim: str) -> str:
        """Kills a container while a checkout waits, its own if it is a shop's. Returns the order's id."""
        shops = self.shops()
        order = self.ask(
            "POST", f"{shops.get(victim, next(iter(shops.values())))}/orders", article="pen", pieces=1
        )
        assert order["status"] == "waits for payment"
        path = f"/orders/{order['order_id']}"
        self.run("docker", "kill", victim)
        if "-postgres-" in victim:
            # `docker kill` counts as a manual stop: no restart policy acts, and there is no second database.
            self.run("docker", "start", victim)
        wait_for(lambda: self.ask_any_shop("POST", f"{path}/payment"), 60, "the payment is accepted")
        wait_for(
            lambda: (self.ask_any_shop("GET", path) or {}).get("status") == "shipped",
            60,
            f"the checkout goes on after the end of {victim}",
            pause_seconds=0.2,
        )
        return str(order["order_id"])

    def down(self) -> None:
        down = ("docker", "compose", "down", "--volumes", "--timeout", "0", "--rmi", "local")
        for command in (down, ("docker", "image", "rm", self.image)):
            subprocess.run(command, cwd=FOLDER, env=self.environment, capture_output=True, timeout=120)
        self.http.close()


@pytest.fixture
def shop() -> Iterator[Storefront]:
    started = Storefront()
    try:
        started.up()
        yield started
    finally:
        try:
            sys.stdout.write(started.logs())
        finally:
            started.down()


def test_any_container_is_killed_while_a_checkout_waits_for_its_payment(shop: Storefront) -> None:
    victims = [container for service, count in LONG_RUNNING.items() for container in shop.containers(service)]
    assert len(victims) == sum(LONG_RUNNING.values())
    orders = {}
    for victim in victims:
        orders[victim] = shop.kill_during_a_checkout(victim)
        shop.up()

    # What the page draws from.
    snapshot = shop.ask("GET", f"{shop.api_url}/console/snapshot")
    shown = [row for row in snapshot["executors"] if row["application"] == "storefront"]
    assert len([row for row in shown if row["state"] == "live"]) == 2
    workflow = shop.ask("GET", f"{shop.api_url}/workflows/{orders[victims[-1]]}")
    assert workflow["application"] == "storefront"
    (application,) = shop.query("SELECT * FROM ops.applications WHERE kind = 'user'")
    assert application["database_role"] == "holdfast_app_storefront"

    # Goods reserved once and shipped once, however often a process died.
    (stock,) = shop.query("SELECT pieces FROM storefront.stock WHERE article = 'pen'")
    assert stock["pieces"] == 1000 - len(victims)
    found = shop.query(
        "SELECT order_id, status, tracking FROM storefront.orders JOIN storefront.shipments USING (order_id)"
    )
    assert {row["order_id"]: row["status"] for row in found} == dict.fromkeys(orders.values(), "shipped")
    for victim in victims:
        moves = shop.query(f"SELECT kind FROM ops.handovers WHERE workflow_id = '{orders[victim]}'")
        if "storefront" in victim:
            assert [move["kind"] for move in moves] == ["takeover"], victim
    shop.run("docker", "compose", "exec", "-T", "api", "holdfast", "verify")
