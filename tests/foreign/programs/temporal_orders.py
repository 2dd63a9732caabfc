"""A worker and a client of the Temporal Python SDK's interface, in dbosify: activities and a signal."""

import asyncio
import os
from datetime import timedelta

from dbosify import activity, workflow
from dbosify.client import Client
from dbosify.worker import Worker
from stdin_commands import commands_async, log_step

DATABASE_URL = os.environ["DATABASE_URL"]


def log(step: str) -> None:
    log_step(activity.info().workflow_id, step)


@activity.defn
async def first() -> int:
    log("first")
    return 1


@activity.defn
async def slow() -> int:
    log("slow")
    await asyncio.sleep(1)
    return 2


@activity.defn
async def ask_for_payment() -> None:
    log("waits")


@activity.defn
async def last(payment: str) -> str:
    log("last")
    return payment


@workflow.defn
class Order:
    def __init__(self) -> None:
        self.payment: str | None = None

    @workflow.signal
    def pay(self, payment: str) -> None:
        self.payment = payment

    @workflow.run
    async def run(self) -> str:
        limit = timedelta(seconds=60)
        for work in (first, slow, ask_for_payment):
            await workflow.execute_activity(work, start_to_close_timeout=limit)
        await workflow.wait_condition(lambda: self.payment is not None)
        return await workflow.execute_activity(last, self.payment, start_to_close_timeout=limit)


async def main() -> None:
    worker = Worker(
        DATABASE_URL, task_queue="orders", workflows=[Order], activities=[first, slow, ask_for_payment, last]
    )
    async with worker, await Client.connect(DATABASE_URL) as client:
        async for command, workflow_id in commands_async():
            if command == "start":
                await client.start_workflow(Order.run, id=workflow_id, task_queue="orders")
            else:
                await client.get_workflow_handle(workflow_id).signal(Order.pay, "paid")


asyncio.run(main())
