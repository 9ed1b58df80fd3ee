"""A client in a process of its own for `benchmarks.deadline`: sends a request when it is told to, and says how it was answered.

    python -m benchmarks.timed_client HOST PORT

A line of JSON on standard input is one request: `body` (a file), `key` and `timeout_ms` (or null). The answer, a line of JSON
on standard output, has `ms` (from the first byte sent to the last byte received), `status`, `degraded` (the header, or null)
and `order` (places of the documents, best first; empty for a refusal). All go over one connection.
"""

import json
import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

_PATIENCE_SECONDS = 600


def main() -> None:
    _, host, port = sys.argv
    connection = HTTPConnection(host, int(port), timeout=_PATIENCE_SECONDS)
    for line in sys.stdin:
        print(json.dumps(_send(connection, **json.loads(line))), flush=True)


def _send(connection: HTTPConnection, body: str, key: str, timeout_ms: int | None) -> dict[str, Any]:
    content = Path(body).read_bytes()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    if timeout_ms is not None:
        headers["X-Request-Timeout-Ms"] = str(timeout_ms)
    if connection.sock is None:
        connection.connect()
    started = time.perf_counter()
    connection.request("POST", "/rerank", content, headers)
    response = connection.getresponse()
    answer = response.read()
    milliseconds = (time.perf_counter() - started) * 1000
    results = json.loads(answer).get("results", ())
    return {
        "ms": milliseconds,
        "status": response.status,
        "degraded": response.headers.get("X-ZipRerank-Degraded"),
        "order": [result["index"] for result in results],
    }


if __name__ == "__main__":
    main()
