"""Load with a journal: each request has a key, each outcome is recorded, and none stays unknown."""

from __future__ import annotations

import json
import random
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

Work = tuple[str, dict[str, Any]]


def now() -> str:
    """Returns the current time in the journal's format."""
    return datetime.now(UTC).isoformat()


class JournalFile:
    """A file of JSON lines, one per event; see ``holdfast/audit/journal.py``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._stream = path.open("w", encoding="utf-8")

    def write(self, kind: str, **entry: Any) -> None:
        """Writes one line and flushes it to disk immediately."""
        with self._lock:
            self._stream.write(json.dumps({"kind": kind, "at": now(), **entry}) + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()


class Load:
    """Threads that post work of all kinds. A request without an answer, or with 503, is repeated later."""

    def __init__(
        self, url: str, journal: JournalFile, *, seed: int, threads: int = 3, token: str = ""
    ) -> None:
        self.url = url
        self.journal = journal
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.counts: dict[str, int] = {"ok": 0, "refused": 0, "unknown": 0}
        self._unsettled: dict[str, Work] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._seed = seed
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(threads)]

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stops the threads after their current requests."""
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def post(self, path: str, body: dict[str, Any], key: str, *, client: httpx.Client | None = None) -> Any:
        """Sends one journaled request. Returns the JSON of its 2xx answer, else None."""
        own = client or httpx.Client(base_url=self.url, timeout=10, trust_env=False)
        begun = time.monotonic()
        status, answer, outcome = 0, None, "unknown"
        try:
            response = own.post(path, json=body, headers={**self.headers, "Idempotency-Key": key})
            status = response.status_code
            outcome = "ok" if response.is_success else "refused"
            answer = response.json() if response.is_success else None
        except (httpx.TransportError, ValueError):
            outcome = "unknown"
        finally:
            if client is None:
                own.close()
        self.journal.write(
            "request",
            key=key,
            path=path,
            outcome=outcome,
            status=status,
            workflow_id=answer["workflow_id"] if answer else None,
            seconds=round(time.monotonic() - begun, 3),
        )
        with self._lock:
            self.counts[outcome] += 1
            if outcome == "ok" or (outcome == "refused" and status != 503):
                self._unsettled.pop(key, None)
            else:
                self._unsettled[key] = (path, body)
        return answer

    def settle(self, seconds: float) -> int:
        """Repeats unanswered requests with their keys. Returns the number that stay without an answer."""
        deadline = time.monotonic() + seconds
        while self._unsettled and time.monotonic() < deadline:
            with self._lock:
                left = list(self._unsettled.items())
            for key, (path, body) in left:
                self.post(path, body, key)
            if self._unsettled:
                time.sleep(0.5)
        return len(self._unsettled)

    def _run(self, thread: int) -> None:
        rng = random.Random(f"{self._seed}/load/{thread}")
        # A kept connection may belong to a process that has ended.
        limits = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(base_url=self.url, timeout=10, trust_env=False, limits=limits) as client:
            number = 0
            while not self._stop.wait(rng.uniform(0.5, 2.0)):
                number += 1
                path, body = some_work(rng)
                self.post(path, body, f"load-{self._seed}-{thread}-{number}", client=client)


def some_work(rng: random.Random) -> Work:
    """Returns a small request of a random kind."""
    kind = rng.choices(["batch", "scope", "instance", "function", "users", "nested"], [4, 2, 1, 1, 2, 2])[0]
    steps = {"steps": rng.randint(3, 20), "step_seconds": round(rng.uniform(0.02, 0.2), 2)}
    if kind == "batch":
        if rng.random() < 0.2:
            numbers = [rng.randint(0, 20_000) for _ in range(rng.randint(1, 6))]
            return "/fibonacci/batches", {"numbers": numbers, "method": "doubling"}
        numbers = [rng.randint(15, 27) for _ in range(rng.randint(2, 10))]
        return "/fibonacci/batches", {"numbers": numbers, "sequential": rng.random() < 0.2}
    if kind == "users":
        return "/users/pages", {"pages": rng.randint(1, 4), "page_size": rng.randint(1, 3)}
    if kind == "nested":
        return "/nested", {"queued": rng.random() < 0.7}
    where = {
        "scope": "class",
        "instance": f"instance/{rng.choice(['alpha', 'beta'])}",
        "function": "function",
    }
    return f"/scope/{where[kind]}", steps
