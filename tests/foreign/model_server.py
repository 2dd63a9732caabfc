"""A model server that speaks OpenAI's Responses API: it asks for each tool in turn, then answers."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CALLS = [("look_up", {"city": "Paris"}), ("convert", {"degrees": 21})]
ANSWER = "It is 69 degrees Fahrenheit."


class ModelServer:
    """Listens on 127.0.0.1 until `close`. ``requests`` counts what it was asked."""

    def __init__(self) -> None:
        self.requests = 0
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                served.requests += 1
                body = json.dumps(response(asked)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Logs nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stops to listen."""
        self._server.shutdown()
        self._server.server_close()


def response(asked: dict[str, Any]) -> dict[str, Any]:
    """Returns the next call of a tool, or the answer once every tool has answered."""
    given = asked["input"] if isinstance(asked["input"], list) else []
    done = sum(1 for item in given if item.get("type") == "function_call_output")
    if done < len(CALLS):
        name, arguments = CALLS[done]
        output: dict[str, Any] = {
            "type": "function_call",
            "id": f"fc_{done}",
            "call_id": f"call_{done}",
            "name": name,
            "arguments": json.dumps(arguments),
            "status": "completed",
        }
    else:
        text = {"type": "output_text", "text": ANSWER, "annotations": []}
        output = {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [text],
        }
    usage = {
        "input_tokens": 1,
        "output_tokens": 1,
        "total_tokens": 2,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    return {
        "id": f"resp_{done}",
        "object": "response",
        "created_at": 0,
        "model": asked["model"],
        "output": [output],
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage,
    }
