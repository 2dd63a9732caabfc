"""An agent of the OpenAI Agents SDK with DBOS's integration. OPENAI_BASE_URL names the model server."""

import asyncio
import os

from agents import Agent, function_tool, set_tracing_disabled
from dbos import DBOS, DBOSConfig, SetWorkflowID
from dbos_openai_agents import DBOSRunner
from stdin_commands import commands_async, log_step

config: DBOSConfig = {"name": "openai-agent", "system_database_url": os.environ["DATABASE_URL"]}
DBOS(config=config)
set_tracing_disabled(True)


def log(step: str) -> None:
    log_step(DBOS.workflow_id, step)


@function_tool
@DBOS.step()
async def look_up(city: str) -> str:
    """Look up how warm it is in a city."""
    log("first")
    return f"21 degrees in {city}"


@function_tool
@DBOS.step()
async def convert(degrees: int) -> int:
    """Convert degrees Celsius to Fahrenheit."""
    log("slow")
    await asyncio.sleep(1)
    return degrees * 9 // 5 + 32


agent = Agent(name="weather", tools=[look_up, convert], model="gpt-test")


@DBOS.workflow()
async def ask(question: str) -> str:
    answer = await DBOSRunner.run(agent, question)
    return str(answer.final_output)


async def main() -> None:
    DBOS.launch()
    async for _, workflow_id in commands_async():
        with SetWorkflowID(workflow_id):
            await DBOS.start_workflow_async(ask, "How warm is it in Paris, in Fahrenheit?")


asyncio.run(main())
