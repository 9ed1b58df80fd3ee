"""A client in a process of its own: sends one request at a time when it is told to, and says how long the answer took.

    python -m benchmarks.single_request_client HOST PORT

A line `method route content-type body-file` (tabs between) on standard input is one request; the answer, a line on standard
output, is its milliseconds from the first byte sent to the last byte received. All go over one connection, as a backend's do.
A status of 400 and above ends the client.
"""

import sys
import time
from http.client import HTTPConnection
from pathlib import Path

_PATIENCE_SECONDS = 300


def main() -> None:
    _, host, port = sys.argv
    connection = HTTPConnection(host, int(port), timeout=_PATIENCE_SECONDS)
    for line in sys.stdin:
        print(_send(connection, *line.rstrip("\n").split("\t")), flush=True)


def _send(connection: HTTPConnection, method: str, route: str, content_type: str, body_file: str) -> float:
    body = Path(body_file).read_bytes()
    if connection.sock is None:
        connection.connect()
    started = time.perf_counter()
    connection.request(method, route, body, {"Content-Type": content_type})
    response = connection.getresponse()
    answer = response.read()
    milliseconds = (time.perf_counter() - started) * 1000
    if response.status >= 400:
        raise SystemExit(answer.decode())
    return milliseconds


if __name__ == "__main__":
    main()
