"""An agent of Pydantic AI with its DBOS integration and its test model, which calls every tool once."""

import asyncio
import os

from dbos import DBOS, DBOSConfig, SetWorkflowID
from pydantic_ai import Agent
from pydantic_ai.durable_exec.dbos import DBOSDurability
from pydantic_ai.models.test import TestModel
from stdin_commands import commands_async, log_step

config: DBOSConfig = {"name": "pydantic-agent", "system_database_url": os.environ["DATABASE_URL"]}
DBOS(config=config)
agent = Agent(TestModel(), name="weather", instructions="Be brief.", capabilities=[DBOSDurability()])


def log(step: str) -> None:
    log_step(DBOS.workflow_id, step)


@DBOS.step()
async def look_up(city: str) -> str:
    log("first")
    return city or "Paris"


@agent.tool_plain
@DBOS.step()
async def temperature(city: str) -> int:
    log("slow")
    await asyncio.sleep(1)
    return 21


@DBOS.workflow()
async def ask(question: str) -> str:
    city = await look_up("Paris")
    answer = await agent.run(f"{question} in {city}")
    return answer.output


async def main() -> None:
    DBOS.launch()
    async for _, workflow_id in commands_async():
        with SetWorkflowID(workflow_id):
            await DBOS.start_workflow_async(ask, "How warm is it?")


asyncio.run(main())
