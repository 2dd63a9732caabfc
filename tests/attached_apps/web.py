"""A web application with DBOS that never calls ``DBOS.destroy()``. It does not know Holdfast.

``WEB_LIFESPAN`` makes it launch DBOS in its lifespan, and destroy it there too unless it is ``launch``.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import plain
import uvicorn
from dbos import DBOS, SetWorkflowID
from fastapi import FastAPI, Request


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    if "WEB_LIFESPAN" in os.environ:
        DBOS.launch()
    print("ready", flush=True)
    yield
    plain.note("over")
    if os.environ.get("WEB_LIFESPAN", "launch") != "launch":
        DBOS.destroy()


app = FastAPI(lifespan=lifespan)


@app.post("/workflows/{name}/{workflow_id}")
def begin(name: str, workflow_id: str, arguments: list[int | float | str]) -> int:
    with SetWorkflowID(workflow_id):
        DBOS.start_workflow(plain.WORKFLOWS[name], *arguments)
    return os.getpid()


@app.post("/async/{name}/{workflow_id}")
async def begin_async(name: str, workflow_id: str, arguments: list[int | float | str]) -> int:
    with SetWorkflowID(workflow_id):
        await DBOS.start_workflow_async(plain.WORKFLOWS[name], *arguments)
    return os.getpid()


@app.get("/held")
async def held(request: Request) -> None:
    """Answers once the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


if "WEB_LIFESPAN" not in os.environ:
    DBOS.launch()

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["WEB_PORT"]))
