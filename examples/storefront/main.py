"""A shop on DBOS: FastAPI serves its page, and what must not get lost is a workflow.

An order waits for its payment as long as the customer needs. Meanwhile its goods are reserved.
"""

import html
import os
import time
import uuid
from datetime import datetime
from typing import Any

import sqlalchemy as sa
import uvicorn
from dbos import DBOS, DBOSConfig, SetWorkflowID, SQLAlchemyDatasource
from fastapi import FastAPI, HTTPException
from fastapi.responses import HTMLResponse

GOODS = {"pen": 150, "ink": 480, "paper": 790}
FULL_STOCK = 1000
PAYMENT_DAYS = 3

config: DBOSConfig = {"name": "storefront", "system_database_url": os.environ["DBOS_SYSTEM_DATABASE_URL"]}
DBOS(config=config)
app = FastAPI(title="Storefront")

# --- the shop's own tables --------------------------------------------------------------------

url = sa.make_url(os.environ.get("SHOP_DATABASE_URL") or os.environ["DBOS_SYSTEM_DATABASE_URL"])
shop = SQLAlchemyDatasource.create(url.set(drivername="postgresql+psycopg").render_as_string(False))
tables = sa.MetaData()
stock = sa.Table(
    "stock",
    tables,
    sa.Column("article", sa.Text, primary_key=True),
    sa.Column("pieces", sa.Integer, sa.CheckConstraint("pieces >= 0"), nullable=False),
)
orders = sa.Table(
    "orders",
    tables,
    sa.Column("order_id", sa.Text, primary_key=True),
    sa.Column("article", sa.Text, nullable=False),
    sa.Column("pieces", sa.Integer, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("placed_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
)
shipments = sa.Table(
    "shipments",
    tables,
    sa.Column("order_id", sa.Text, primary_key=True),
    sa.Column("tracking", sa.Text, nullable=False),
)


def create_tables() -> None:
    """Creates the tables where they are missing. Processes that start together take turns."""
    with shop.engine.begin() as connection:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('storefront'))"))
        tables.create_all(connection)
        for article in GOODS:
            connection.execute(
                sa.text("INSERT INTO stock VALUES (:article, :pieces) ON CONFLICT DO NOTHING"),
                {"article": article, "pieces": FULL_STOCK},
            )


# --- transactions and steps -------------------------------------------------------------------


@shop.transaction()
def reserve(order_id: str, article: str, pieces: int) -> bool:
    """Takes the goods out of the stock and notes the order, or returns False if there are too few."""
    session = shop.sql_session()
    left = stock.c.pieces - pieces
    taken = session.execute(
        stock.update().where(stock.c.article == article, left >= 0).values(pieces=left).returning(left)
    )
    if taken.first() is None:
        return False
    session.execute(
        orders.insert().values(order_id=order_id, article=article, pieces=pieces, status="reserved")
    )
    return True


@shop.transaction()
def put_back(order_id: str, article: str, pieces: int) -> None:
    """Returns the goods of an order that was not paid."""
    session = shop.sql_session()
    session.execute(stock.update().where(stock.c.article == article).values(pieces=stock.c.pieces + pieces))
    session.execute(orders.update().where(orders.c.order_id == order_id).values(status="cancelled"))


@shop.transaction()
def note(order_id: str, status: str) -> None:
    """Notes the status of an order."""
    shop.sql_session().execute(orders.update().where(orders.c.order_id == order_id).values(status=status))


@shop.transaction()
def note_shipment(order_id: str, tracking: str) -> None:
    """Notes under which number the parcel travels."""
    session = shop.sql_session()
    session.execute(shipments.insert().values(order_id=order_id, tracking=tracking))
    session.execute(orders.update().where(orders.c.order_id == order_id).values(status="shipped"))


@shop.transaction()
def refill() -> int:
    """Fills the stock up where it runs low. Returns the number of articles."""
    low = stock.update().where(stock.c.pieces < FULL_STOCK // 2).values(pieces=stock.c.pieces + FULL_STOCK)
    return len(shop.sql_session().execute(low.returning(stock.c.article)).all())


@DBOS.step(retries_allowed=True, max_attempts=5)
def hand_to_carrier(order_id: str) -> str:
    """Asks the carrier for a parcel. The same order gets the same number, however often it is asked."""
    time.sleep(0.2)
    return uuid.uuid5(uuid.NAMESPACE_URL, order_id).hex[:12].upper()


@DBOS.step()
async def write_mail(order_id: str, text: str) -> str:
    """Stands for the mail server."""
    DBOS.logger.info("mail about %s: %s", order_id, text)
    return text


# --- workflows --------------------------------------------------------------------------------


@DBOS.workflow()
def checkout(order_id: str, article: str, pieces: int) -> str:
    """One order, from the reservation to the parcel."""
    if not reserve(order_id, article, pieces):
        DBOS.set_event("status", "sold out")
        return "sold out"
    DBOS.set_event("status", "waits for payment")
    payment = DBOS.recv("payment", timeout_seconds=PAYMENT_DAYS * 86_400)
    if not payment or not payment["paid"]:
        put_back(order_id, article, pieces)
        DBOS.set_event("status", "cancelled")
        return "cancelled"
    note(order_id, "paid")
    DBOS.set_event("status", "paid")
    with SetWorkflowID(f"{order_id}-dispatch"):
        tracking = DBOS.enqueue_workflow("dispatch", dispatch, order_id).get_result()
    DBOS.set_event("tracking", tracking)
    DBOS.set_event("status", "shipped")
    with SetWorkflowID(f"{order_id}-mail"):
        DBOS.start_workflow(send_mail, order_id, f"Your parcel is on its way: {tracking}")
    return tracking


@DBOS.workflow()
def dispatch(order_id: str) -> str:
    """Packs one order. The queue lets two of them pack at a time in each process."""
    tracking = hand_to_carrier(order_id)
    note_shipment(order_id, tracking)
    return tracking


@DBOS.workflow()
async def send_mail(order_id: str, text: str) -> None:
    """Writes to the customer, and again after a while."""
    await write_mail(order_id, text)
    await DBOS.sleep_async(1)
    await write_mail(order_id, "How do you like it?")


@DBOS.workflow()
def restock(scheduled_at: datetime, context: Any) -> int:
    """Runs on a schedule."""
    return refill()


# --- HTTP -------------------------------------------------------------------------------------


@app.post("/orders")
def place_order(article: str, pieces: int = 1) -> dict[str, str]:
    """Starts a checkout."""
    if article not in GOODS or pieces < 1:
        raise HTTPException(422, "no such article, or no such number of pieces")
    order_id = f"order-{uuid.uuid4().hex[:12]}"
    with SetWorkflowID(order_id):
        DBOS.start_workflow(checkout, order_id, article, pieces)
    status = DBOS.get_event(order_id, "status", timeout_seconds=10)
    return {"order_id": order_id, "status": status or "accepted"}


@app.post("/orders/{order_id}/payment")
def pay(order_id: str, paid: bool = True) -> dict[str, str]:
    """Is called by the payment provider."""
    DBOS.send(order_id, {"paid": paid}, "payment", idempotency_key=f"{order_id}-payment")
    return {"order_id": order_id}


@app.get("/orders/{order_id}")
def read_order(order_id: str) -> dict[str, Any]:
    """Returns what the customer may know about an order."""
    if DBOS.get_workflow_status(order_id) is None:
        raise HTTPException(404, "no such order")
    return {
        "order_id": order_id,
        "status": DBOS.get_event(order_id, "status", timeout_seconds=0),
        "tracking": DBOS.get_event(order_id, "tracking", timeout_seconds=0),
    }


@app.get("/health")
def health() -> dict[str, str]:
    """Says that the server answers."""
    return {"status": "ok"}


@app.get("/", response_class=HTMLResponse)
def page() -> str:
    """Shows the goods and the latest orders."""
    with shop.engine.connect() as connection:
        pieces = dict(connection.execute(sa.select(stock.c.article, stock.c.pieces)).all())
        latest = connection.execute(orders.select().order_by(orders.c.placed_at.desc()).limit(20)).all()
    buy = "".join(
        f"<li>{name}, {cents / 100:.2f} €, {pieces[name]} left "
        f"<button data-post='/orders?article={name}'>Buy</button></li>"
        for name, cents in GOODS.items()
    )
    placed = "".join(
        f"<li><a href='/orders/{html.escape(row.order_id)}'>{html.escape(row.order_id)}</a> "
        f"{row.pieces} × {row.article}: {row.status} "
        + (f"<button data-post='/orders/{row.order_id}/payment'>Pay</button>" * (row.status == "reserved"))
        + "</li>"
        for row in latest
    )
    return f"""<!doctype html><title>Storefront</title><h1>Storefront</h1><ul>{buy}</ul><h2>Orders</h2>
<ul>{placed}</ul><script>
for (const b of document.querySelectorAll("button"))
  b.onclick = () => fetch(b.dataset.post, {{method: "POST"}}).then(() => location.reload());
</script>"""


if __name__ == "__main__":
    create_tables()
    DBOS.launch()
    DBOS.register_queue("dispatch", worker_concurrency=2)
    DBOS.apply_schedules(
        [{"schedule_name": "restock", "workflow_fn": restock, "schedule": "*/10 * * * * *", "context": None}]
    )
    uvicorn.run(
        app, host=os.environ.get("SHOP_HOST", "127.0.0.1"), port=int(os.environ.get("SHOP_PORT", "8080"))
    )
