"""A real S3 server (SeaweedFS) for the session, and a proxy to it with injected faults."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from holdfast.installations.embedded import die_with_parent
from tests.support.stack import free_ports, wait_for

_OWNER = ("test-owner", "secret-of-the-test-owner")
_READER = ("test-reader", "secret-of-the-test-reader")


class ObjectServer:
    """``weed server`` with two users: an owner with all rights, and a reader with the right to list."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="holdfast-test-s3-"))
        self.credentials_file = self.credentials("reader", *_READER)
        port = free_ports(8)
        self._ports = range(port, port + 8)
        self.url = f"http://127.0.0.1:{port}"
        identities = [
            {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
            for name, (key, secret), actions in (
                ("owner", _OWNER, ["Admin", "Read", "Write", "List"]),
                ("reader", _READER, ["Read", "List"]),
            )
        ]
        (self.home / "s3.json").write_text(json.dumps({"identities": identities}), "utf-8")
        names = ("s3", "s3.port.grpc", "master", "master.port.grpc", "volume", "volume.port.grpc", "filer")
        ports = {name if "." in name else f"{name}.port": port + at for at, name in enumerate(names)}
        (self.home / "data").mkdir()
        with (self.home / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    str(Path(sys.executable).parent / "weed"),
                    "-logtostderr",
                    "server",
                    f"-dir={self.home / 'data'}",
                    "-ip=127.0.0.1",
                    "-filer",
                    "-s3",
                    f"-s3.config={self.home / 's3.json'}",
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                    "-master.telemetry=false",
                    "-volume.max=200",
                    "-master.volumeSizeLimitMB=16",
                    *(f"-{name}={number}" for name, number in ports.items()),
                    f"-filer.port.grpc={port + len(names)}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509 - fixtures start it
            )
        self.owner: Any = self.client(*_OWNER)
        try:
            wait_for(self._ready, 60, "the S3 server takes objects")
        except BaseException:
            self.close()
            raise

    def client(self, key: str, secret: str) -> Any:
        """Creates a client with these credentials."""
        return boto3.Session().client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )

    def credentials(self, name: str, key: str, secret: str) -> Path:
        """Writes a credentials file."""
        file = self.home / f"{name}.credentials"
        file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n", "utf-8")
        return file

    def _ready(self) -> bool:
        assert self.process.poll() is None, (self.home / "log").read_text("utf-8")[-3000:]
        try:
            self.owner.create_bucket(Bucket="ready")
        except (BotoCoreError, ClientError) as error:
            if "BucketAlready" not in str(error):
                return False
        try:
            self.owner.put_object(Bucket="ready", Key="ready", Body=b"")
        except (BotoCoreError, ClientError):
            return False
        return True

    def fill(self, bucket: str, objects: Iterable[tuple[str, int]]) -> None:
        """Creates a bucket with objects of these sizes."""
        self.owner.create_bucket(Bucket=bucket)
        with ThreadPoolExecutor(8) as threads:
            done = [
                threads.submit(self.owner.put_object, Bucket=bucket, Key=key, Body=b"x" * size)
                for key, size in objects
            ]
        for each in done:
            each.result()

    def settings(self, url: str | None = None) -> dict[str, Any]:
        """Returns the settings with which a worker lists as the reader."""
        return {"s3_endpoint": url or self.url, "s3_credentials_file": self.credentials_file}

    def close(self) -> None:
        """Stops the server and deletes its data."""
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.home)
        for port in self._ports:
            for socket in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                socket.unlink()


class Door:
    """A proxy that passes requests to the server. ``faults`` replace the next answers.

    A fault is ``503``, ``garbage``, ``reset`` or ``slow`` (an answer after ``slow_seconds``). ``always`` is a
    fault for every request. ``delay_seconds`` delays each passed request.
    """

    def __init__(self, server: ObjectServer) -> None:
        self.faults: deque[str] = deque()
        self.always = ""
        self.slow_seconds = 3.0
        self.delay_seconds = 0.0
        self.requests: list[float] = []
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()
        door, target = self, server.url.removeprefix("http://")

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with door._lock:
                    door.requests.append(time.monotonic())
                    door.at_once += 1
                    door.most_at_once = max(door.most_at_once, door.at_once)
                    fault = door.always or (door.faults.popleft() if door.faults else "")
                try:
                    self._answer(fault)
                except OSError:
                    self.close_connection = True
                finally:
                    with door._lock:
                        door.at_once -= 1

            def _answer(self, fault: str) -> None:
                if fault == "reset":
                    self.close_connection = True
                    return
                if fault in ("503", "garbage"):
                    slow_down = b"<Error><Code>SlowDown</Code><Message>Reduce your rate.</Message></Error>"
                    self._send(503 if fault == "503" else 200, slow_down if fault == "503" else b"<not xml")
                    return
                time.sleep(door.slow_seconds if fault == "slow" else door.delay_seconds)
                upstream = http.client.HTTPConnection(target, timeout=20)
                try:
                    # The Host header remains the proxy's, because it is signed.
                    upstream.request("GET", self.path, headers=dict(self.headers))
                    answer = upstream.getresponse()
                    self._send(answer.status, answer.read(), answer.getheader("Content-Type"))
                finally:
                    upstream.close()

            def _send(self, status: int, body: bytes, kind: str | None = None) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind or "application/xml")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, name="door", daemon=True).start()

    def close(self) -> None:
        """Closes the proxy."""
        self._http.shutdown()
        self._http.server_close()


@contextmanager
def door_to(server: ObjectServer) -> Iterator[Door]:
    """Yields a proxy for a test."""
    made = Door(server)
    try:
        yield made
    finally:
        made.close()
