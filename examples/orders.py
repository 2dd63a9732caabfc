"""Orders: a complete user-defined module. Copy it, rename it, change it: docs/start/your-own-workflow.md.

First the rules, which know nothing of Holdfast; then what makes them durable; then the one call that
registers it.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from datetime import datetime

from holdfast import Queue, Schedule, idempotency_key, register, step, workflow

# --- the rules -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """So many of one article, at a price for one in cents."""

    article: str
    count: int
    cents: int


@dataclass(frozen=True)
class Parcel:
    """What the carrier took: one line of an order, under the carrier's own number."""

    article: str
    tracking: str


@dataclass(frozen=True)
class Receipt:
    """An order that is on its way."""

    order_id: str
    total_cents: int
    parcels: list[Parcel]


class SoldOut(Exception):  # noqa: N818 - an answer, not a fault
    """The carrier has nothing to fetch."""


def total_cents(lines: list[Line]) -> int:
    """What an order costs: from 100.00 on, one tenth less."""
    plain = sum(line.count * line.cents for line in lines)
    return plain if plain < 100_00 else plain - plain // 10


def tracking_number(key: str) -> str:
    """The carrier's number for an order of ours: the same for the same key, as carriers do it."""
    return hashlib.sha256(key.encode()).hexdigest()[:12].upper()


# --- what is durable -------------------------------------------------------------------------


@step("orders.ship", attempts=3, errors=[SoldOut])
def ship(line: Line, packing_seconds: float) -> Parcel:
    """Hands one line to the carrier. It may run again after a crash: the key lets the carrier know."""
    if line.count == 0:
        raise SoldOut(f"{line.article} is sold out")
    time.sleep(packing_seconds)
    return Parcel(line.article, tracking_number(idempotency_key()))


@workflow("orders.fulfil")
def fulfil(order_id: str, lines: list[Line], packing_seconds: float = 0.5) -> Receipt:
    """One order, line by line. What is sold out is left out, and not charged."""
    shipped: list[Line] = []
    parcels: list[Parcel] = []
    for line in lines:
        try:
            parcels.append(ship(line, packing_seconds))
        except SoldOut:
            continue
        shipped.append(line)
    return Receipt(order_id, total_cents(shipped), parcels)


@step("orders.count_stock")
def count_stock(at: datetime) -> str:
    """Looks at the shelves; here, only at the clock."""
    return f"counted at {at:%H:%M:%S}"


@workflow("orders.take_stock")
def take_stock(at: datetime) -> str:
    """The schedule's workflow: gets the time of its tick."""
    return count_stock(at)


register(
    Queue("orders", [fulfil], at_once=4),
    Queue("stock", [take_stock], at_once=1),
    schedules=[Schedule("orders-stock", take_stock, cron="*/5 * * * * *")],
)
