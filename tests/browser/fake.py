"""The console's server, faked: its static files, its snapshot and stream, and a few calls of the API.

``python -m tests.browser.fake --port 8123 [--crowd]`` serves it to look at.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from holdfast.installations.ports import free_port
from tests.browser.fake_world import WINDOW_SECONDS, Item, World, crowd, iso, lived

STATIC = Path(__file__).resolve().parents[2] / "holdfast" / "console" / "static"
TOKEN = "open-sesame"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
STATUS = {"running": "PENDING", "success": "SUCCESS", "error": "ERROR", "cancelled": "CANCELLED"}
BARS_SERVED = 2000


def public(item: Item) -> Item:
    """Without the fake's own marks."""
    return {k: v for k, v in item.items() if not k.startswith("_")}


def stored(value: Any) -> dict[str, Any]:
    """A value of an event or a stream."""
    return {"value": value, "bytes": 9, "shortened": False, "format": "portable_json"}


class Fake:
    """The server in a thread of its own. ``up = False`` makes it refuse everything, as a stopped API does."""

    def __init__(self, world: World, *, port: int | None = None, bars_served: int = BARS_SERVED) -> None:
        self.world = world
        self.bars_served = bars_served
        self.up = True
        self.calls: list[tuple[str, str, Any]] = []
        """Every order that came: method, path, body."""
        self.waiting: dict[str, Any] | None = None
        self.set: list[dict[str, Any]] = []
        """Events of every workflow."""
        self.written: dict[str, list[Any]] = {}
        """Streams of every workflow, by key."""
        self.snapshots = 0
        self.streams = True
        """False: every place for a stream is taken."""
        self.resumed = self.full = 0
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        routes = [
            Route("/console/snapshot", self.snapshot),
            Route("/console/events", self.events),
            Route("/static/{name}", self.static),
            Route("/console/workflows/{workflow_id}/tree", self.tree),
            Route("/console/workflows/{workflow_id}", self.page),
            Route("/stranded", self.stranded, methods=["GET"]),
            Route("/workflows", self.workflows),
            Route("/workflows/{workflow_id}", self.workflow, methods=["GET"]),
            Route("/workflows/{workflow_id}/steps", self.steps),
            Route("/workflows/{workflow_id}/events", self.set_events),
            Route("/workflows/{workflow_id}/streams", self.written_streams),
            Route("/workflows/{workflow_id}/streams/{key}", self.written_values),
            Route("/{path:path}", self.order, methods=["POST", "DELETE"]),
            Route("/", self.page),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes),
            port=self.port,
            log_level="warning",
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._threads = [
            threading.Thread(target=self._server.run, daemon=True),
            threading.Thread(target=self._live, daemon=True),
        ]

    def __enter__(self) -> Fake:
        for thread in self._threads:
            thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.up = False
        self._server.should_exit = True
        self._threads[0].join(10)

    def _live(self) -> None:
        while not self._server.should_exit:
            self.world.step(self.world.now())
            time.sleep(0.05)

    # --- the console's own -----------------------------------------------------------------

    async def page(self, _: Request) -> Response:
        if not self.up:
            return Response(status_code=503)
        return FileResponse(STATIC / "index.html", headers={"Content-Security-Policy": POLICY})

    async def static(self, request: Request) -> Response:
        path = STATIC / request.path_params["name"]
        return FileResponse(path) if path.is_file() else Response(status_code=404)

    async def snapshot(self, _: Request) -> Response:
        self.snapshots += 1
        return JSONResponse(self.document()) if self.up else Response(status_code=503)

    async def events(self, request: Request) -> Response:
        if not self.up or not self.streams:
            return Response(status_code=503)
        boot, _, number = request.headers.get("last-event-id", "").rpartition("-")
        after = int(number) if boot == self.world.boot else None
        self.full, self.resumed = self.full + (after is None), self.resumed + (after is not None)
        return StreamingResponse(self._stream(after), media_type="text/event-stream")

    async def _stream(self, after: int | None) -> AsyncIterator[str]:
        yield "retry: 1000\n\n"
        if after is None:
            document = self.document()
            after = int(document["id"].rpartition("-")[2])
            yield f"id: {document['id']}\nevent: snapshot\ndata: {json.dumps(document)}\n\n"
        while self.up:
            await asyncio.sleep(0.1)
            if not self.up:
                return
            with self.world.lock:
                change, rev = self.change(after), self.world.rev
            if rev != after:
                after = rev
                yield f"id: {self.world.boot}-{rev}\nevent: change\ndata: {json.dumps(change)}\n\n"

    def _totals(self) -> dict[str, Any]:
        w = self.world
        oldest = min((q["since"] for q in w.queue), default=None)
        running = sum(1 for b in w.bars.values() if b["ended_at"] is None)
        return {
            "now": w.at if w.database_up else w.database_since,
            "database": {"up": w.database_up, "since": w.database_since},
            "queues": [
                {
                    "queue": "fibonacci",
                    "depth": len(w.queue),
                    "oldest_age_seconds": None if oldest is None else w.at - oldest,
                }
            ],
            "counts": {
                "running": running,
                "queued": len(w.queue),
                "parked": w.parked,
                "stranded": w.stranded,
                "orphaned": w.orphaned,
            },
            "last_takeover": w.last_takeover,
            "applications": self._by_application(),
        }

    def _by_application(self) -> list[dict[str, Any]]:
        w = self.world
        found = []
        for name in sorted({e["application"] for e in w.executors.values()}):
            ours = {e["executor_id"] for e in w.executors.values() if e["application"] == name}
            running = sum(b["ended_at"] is None and b["executor_id"] in ours for b in w.bars.values())
            queued = len(w.queue) if name == "holdfast-worker" else 0
            found.append({"application": name, "running": running, "queued": queued, "oldest_age_seconds": 0})
        return found

    def document(self) -> dict[str, Any]:
        """The snapshot."""
        with self.world.lock:
            w = self.world
            bars = sorted(w.bars.values(), key=lambda b: b["started_at"])
            more: dict[str, dict[float, int]] = {}
            for bar in bars[: -self.bars_served]:
                bucket = bar["started_at"] // 5 * 5
                lane = more.setdefault(bar["executor_id"], {})
                lane[bucket] = lane.get(bucket, 0) + 1
            return {
                "id": f"{w.boot}-{w.rev}",
                "window_seconds": WINDOW_SECONDS,
                "chaos": w.chaos,
                "token_required": True,
                "release": "0.1.0",
                "pulse_seconds": w.pulse_seconds,
                **self._totals(),
                "executors": [public(e) for e in w.executors.values()],
                "bars": [public(b) for b in bars[-self.bars_served :]],
                "more": {e: [[at, 5, n] for at, n in lane.items()] for e, lane in more.items()},
                "moves": [public(m) for m in w.moves.values()],
                "pulses": [public(p) for p in w.pulses.values()],
                "queue_history": w.history,
            }

    def change(self, after: int) -> dict[str, Any]:
        """What came since."""
        w = self.world
        found: dict[str, Any] = self._totals()
        for name in ("executors", "bars", "moves", "pulses"):
            items = [public(i) for i in getattr(w, name).values() if i["_rev"] > after]
            if items:
                found[name] = items
        gone: dict[str, list[Any]] = {}
        for rev, kind, key in w.gone:
            if rev > after:
                gone.setdefault(kind, []).append(key)
        if gone:
            found["gone"] = gone
        found["queue_history"] = w.history[-2:]
        return found

    # --- the API's calls that the page makes -----------------------------------------------

    def _row(self, workflow_id: str) -> dict[str, Any] | None:
        attempts = [b for b in list(self.world.bars.values()) if b["workflow_id"] == workflow_id]
        if not attempts:
            return None
        bar = attempts[-1]
        number = bar["name"] == "fibonacci.number"
        return {
            "workflow_id": workflow_id,
            "name": bar["name"],
            "status": STATUS.get(bar["outcome"], "PENDING"),
            "class_name": None,
            "instance_name": None,
            "application": "holdfast-worker",
            "application_version": "0.1.0",
            "queue_name": bar["queue"],
            "executor_id": bar["executor_id"],
            "attempts": len(attempts),
            "parent_workflow_id": workflow_id.rpartition("-")[0] if number else None,
            "forked_from": None,
            "created_at": iso(attempts[0]["started_at"] - 0.4),
            "started_at": iso(bar["started_at"]),
            "completed_at": iso(bar["ended_at"]),
        }

    async def workflows(self, request: Request) -> Response:
        if not self.up:
            return Response(status_code=503)
        q = request.query_params
        limit, offset = int(q.get("limit", 50)), int(q.get("before", 0))
        ids = list(dict.fromkeys(b["workflow_id"] for b in reversed(list(self.world.bars.values()))))
        rows = [row for i in ids if (row := self._row(i))]
        if q.getlist("status"):
            rows = [r for r in rows if r["status"] in q.getlist("status")]
        if q.getlist("name"):
            rows = [r for r in rows if r["name"] in q.getlist("name")]
        rows = [r for r in rows if r["workflow_id"].startswith(q.get("prefix", ""))]
        more = len(rows) > offset + limit
        return JSONResponse(
            {"workflows": rows[offset : offset + limit], "next_before": str(offset + limit) if more else None}
        )

    async def tree(self, request: Request) -> Response:
        workflow_id = request.path_params["workflow_id"]
        if self._row(workflow_id) is None:
            return problem(404, "There is no workflow of this id.")
        root = "-".join(workflow_id.split("-")[:2]) if workflow_id.startswith("batch") else workflow_id
        bars = {b["workflow_id"]: b for b in list(self.world.bars.values())}
        family = [i for i in bars if i == root or i.startswith(f"{root}-")]
        rows = [(bars[i], row) for i in sorted(family, key=len) if (row := self._row(i))]
        nodes = [{**row, "label": bar["label"], "version": "0.1.0"} for bar, row in rows[:500]]
        status = nodes[[n["workflow_id"] for n in nodes].index(workflow_id)]["status"]
        ended = status not in ("PENDING", "ENQUEUED")
        return JSONResponse(
            {
                "now": self.world.at,
                "workflow_id": workflow_id,
                "root_id": root,
                "truncated": False,
                "nodes": nodes,
                "attempts": [public(b) for b in self.world.bars.values() if b["workflow_id"] == workflow_id],
                "moves": [public(m) for m in self.world.moves.values() if m["workflow_id"] == workflow_id],
                "executors": {e: row["state"] for e, row in self.world.executors.items()},
                "actions": {
                    "cancel": f"It has ended with {status}; there is nothing to cancel." if ended else None,
                    "resume": None
                    if status == "CANCELLED"
                    else "Only cancelled or parked work can be resumed.",
                    "reopen": None if status == "ERROR" else "Only what ended with ERROR can be reopened.",
                    "fork": None,
                    "adopt": "Its version is run by live executors.",
                    "delete": None if ended else f"It is {status}; only what has ended can be deleted.",
                },
            }
        )

    async def workflow(self, request: Request) -> Response:
        row = self._row(request.path_params["workflow_id"])
        if row is None:
            return problem(404, "There is no workflow of this id.")
        shown = {"input": {"args": [34, "recursive"], "kwargs": {}}, "input_shortened": False}
        ended = {"output": {"n": 34, "value": "5702887"} if row["status"] == "SUCCESS" else None}
        running = self.waiting if row["status"] == "PENDING" else None
        return JSONResponse(
            {**row, **shown, **ended, "output_shortened": False, "error": None, "waiting": running}
        )

    async def set_events(self, request: Request) -> Response:
        workflow_id = request.path_params["workflow_id"]
        return JSONResponse({"workflow_id": workflow_id, "events": self.set, "next_after": None})

    async def written_streams(self, request: Request) -> Response:
        streams = [{"key": key, "length": len(v), "closed": False} for key, v in self.written.items()]
        workflow_id = request.path_params["workflow_id"]
        return JSONResponse({"workflow_id": workflow_id, "streams": streams, "next_after": None})

    async def written_values(self, request: Request) -> Response:
        written = self.written[request.path_params["key"]]
        offset = int(request.query_params["offset"])

        async def sent() -> AsyncIterator[str]:
            for number, value in list(enumerate(written))[offset:]:
                data = json.dumps({"offset": number, **stored(value)})
                yield f"id: {number}\nevent: value\ndata: {data}\n\n"
            while self.up:  # noqa: ASYNC110 - it is open, more may come
                await asyncio.sleep(0.1)

        return StreamingResponse(sent(), media_type="text/event-stream")

    async def steps(self, request: Request) -> Response:
        workflow_id = request.path_params["workflow_id"]
        row = self._row(workflow_id)
        if row is None:
            return problem(404, "There is no workflow of this id.")
        attempts = [b for b in self.world.bars.values() if b["workflow_id"] == workflow_id]
        found: list[dict[str, Any]] = []
        for bar in attempts:
            at, end = bar["started_at"], bar["ended_at"] or self.world.at
            while at + 0.5 <= end and len(found) < 60:
                found.append(self._step(len(found) + 1, "scope.count", at, at + 0.5, None))
                at += 0.5
        if row["name"] == "fibonacci.batch":
            start = attempts[0]["started_at"]
            found = [
                self._step(
                    i + 1, "DBOS.enqueue", start + 0.01 * i, start + 0.01 * i + 0.004, f"{workflow_id}-{i}"
                )
                for i in range(12)
            ]
        return JSONResponse({"workflow_id": workflow_id, "steps": found, "next_offset": None})

    @staticmethod
    def _step(number: int, name: str, start: float, end: float, child: str | None) -> dict[str, Any]:
        return {
            "step_id": number,
            "name": name,
            "child_workflow_id": child,
            "started_at": iso(start),
            "completed_at": iso(end),
            "seconds": end - start,
            "output": {"counter": number},
            "output_shortened": False,
            "error": None,
        }

    async def stranded(self, _: Request) -> Response:
        row = {"application": "holdfast-worker", "application_version": "0.0.9", "status": "ENQUEUED"}
        version = {"reason": "version", "queue_name": None, "workflow_name": None, "way_out": "adopt it"}
        queue = {"reason": "queue", "queue_name": "old", "workflow_name": "w", "way_out": "start it"}
        found = [{**row, **reason, "workflows": self.world.stranded} for reason in (version, queue)]
        return JSONResponse({"stranded": found})

    async def order(self, request: Request) -> Response:
        """Every POST and DELETE."""
        if not self.up:
            return Response(status_code=503)
        path = request.url.path
        body = await request.json() if await request.body() else None
        parts = path.strip("/").split("/")
        control = parts[0] in ("executors", "workflows", "stranded")
        if control and "authorization" not in request.headers:
            return problem(401, "This call needs the admin token.")
        if control and request.headers["authorization"] != f"Bearer {TOKEN}":
            return problem(403, "This is not the admin token.", "wrong-admin-token")
        self.calls.append((request.method, f"{path}?{request.url.query}".rstrip("?"), body))
        answer: dict[str, Any] = {}
        if parts[0] == "executors":
            (self.world.drain if parts[2] == "drain" else self.world.kill)(parts[1])
            answer = {"executor_id": parts[1], "desired_state": parts[2]}
        elif request.method == "DELETE":
            answer = {"workflow_id": parts[1], "deleted": self.world.delete(parts[1])}
        elif parts[0] == "workflows":
            if parts[2] == "cancel":
                self.world.cancel(parts[1])
            answer = {"workflow_id": parts[1], "status": "CANCELLED" if parts[2] == "cancel" else "ENQUEUED"}
        elif parts[0] == "stranded":
            answer = {"adopted": self.world.stranded, "to_version": "0.1.0"}
            self.world.stranded = 0
        else:
            is_batch = path == "/fibonacci/batches"
            started = self.world.batch((body or {}).get("count") or 50) if is_batch else self.world.scope()
            answer = {"workflow_id": started, "status": "ENQUEUED"}
        return JSONResponse(answer, 202)


def problem(status: int, detail: str, kind: str = "refused") -> Response:
    """A problem document."""
    document = {
        "type": f"urn:holdfast:problem:{kind}",
        "title": "refused",
        "status": status,
        "detail": detail,
    }
    return JSONResponse(document, status, media_type="application/problem+json")


def main() -> None:
    """Serve until interrupted."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, default=8123)
    arguments.add_argument("--crowd", action="store_true")
    given = arguments.parse_args()
    with Fake(crowd() if given.crowd else lived(), port=given.port) as fake:
        print(fake.url)  # noqa: T201
        while True:
            if not given.crowd and not fake.world.queue:
                fake.world.batch(40)
            time.sleep(5)


if __name__ == "__main__":
    main()
