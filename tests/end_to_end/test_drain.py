"""A process that is told to stop under load: every request that it has begun to receive is answered."""

import base64
import json
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import httpx

from tests.documents import make_image
from tests.end_to_end.faulty_device import GATE
from tests.patience import PATIENCE_SECONDS, eventually, wait_until_ready
from tests.processes import listening_url, process

WAITING = 45
"""Requests that wait for the device, or for a raster worker, when the signal comes."""

SENDING = 5
"""And those whose body is half sent."""


def body_of(pages: int, number: int = 0) -> bytes:
    page = base64.b64encode(make_image(64, 64, colour=f"#{number * 1009:06x}")).decode()
    return json.dumps({"query": "locks", "documents": [{"image": page}] * pages}).encode()


def begin(url: str, body: bytes) -> socket.socket:
    """A connection on which the head and half of the body are sent."""
    address = httpx.URL(url)
    assert address.port is not None
    connection = socket.create_connection((address.host, address.port), timeout=PATIENCE_SECONDS)
    head = f"POST /rerank HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body[: len(body) // 2])
    return connection


def status_of(connection: socket.socket) -> int:
    with closing(connection), connection.makefile("rb") as answer:
        return int(answer.readline().split()[1])


FLAGS = (
    "--model", "demo", "--device", "cpu", "--port", "0", "--rasterizer-processes", "1", "--drain-delay-seconds", "0",
    "--drain-grace-seconds", str(PATIENCE_SECONDS),
)  # fmt: skip


def test_sigterm_with_50_requests_in_flight_loses_none() -> None:
    with process(*FLAGS, module="tests.end_to_end.faulty_device") as running, ThreadPoolExecutor(WAITING) as threads:
        url = listening_url(running)
        limits = httpx.Limits(max_connections=None)
        headers = {"Content-Type": "application/json"}
        with httpx.Client(base_url=url, timeout=PATIENCE_SECONDS, limits=limits, headers=headers) as client:
            wait_until_ready(client)
            answers = [threads.submit(client.post, "/rerank", content=body_of(GATE))]
            eventually(lambda: "ziprerank_requests_running 1.0" in client.get("/metrics").text, "it holds the device")
            bodies = [body_of(1, number) for number in range(1, WAITING)]
            answers += [threads.submit(client.post, "/rerank", content=body) for body in bodies]
            rest = body_of(1, WAITING)
            connections = [begin(url, rest) for _ in range(SENDING)]
            in_flight = f"ziprerank_requests_in_flight {WAITING + SENDING:.1f}"
            eventually(lambda: in_flight in client.get("/metrics").text, "all requests are in flight")
            running.send_signal(signal.SIGTERM)
            eventually(lambda: refuses(url), "the process has begun to stop")
            for connection in connections:
                connection.sendall(rest[len(rest) // 2 :])
            assert running.stdin is not None
            print(file=running.stdin, flush=True)  # the device goes on
            assert [answer.result(PATIENCE_SECONDS).status_code for answer in answers] == [200] * WAITING
            assert [status_of(connection) for connection in connections] == [200] * SENDING
        assert running.wait(PATIENCE_SECONDS) == 0


def refuses(url: str) -> bool:
    """Whether new connections get nowhere."""
    try:
        return httpx.get(f"{url}/readyz", timeout=PATIENCE_SECONDS).status_code == 503
    except httpx.TransportError:
        return True
