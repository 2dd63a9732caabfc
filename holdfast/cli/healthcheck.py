"""The containers' health check: exit status 0 if the process on a local port answers 200.

Run it as a file (``python -IS healthcheck.py PORT [PATH]``; the default path is ``/readyz``). It imports
nothing but ``socket``, because it runs every few seconds in every container, and a Python process that
imports more costs ten times as much.
"""

import socket
import sys


def answers(port: int, path: str = "/readyz", *, timeout_seconds: float = 2.0) -> bool:
    """Whether ``GET path`` on 127.0.0.1:port answers 200. Network faults return False and raise nothing."""
    request = f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode("ascii")
    try:
        with socket.create_connection(("127.0.0.1", port), timeout_seconds) as connection:
            connection.settimeout(timeout_seconds)
            connection.sendall(request)
            answer = b""
            while b"\n" not in answer:
                chunk = connection.recv(4096)
                if not chunk:
                    break
                answer += chunk
    except OSError:
        return False
    return answer.split(b" ")[1:2] == [b"200"]


if __name__ == "__main__":
    sys.exit(0 if answers(int(sys.argv[1]), *sys.argv[2:3]) else 1)
