"""Bodies that drip, on real sockets: they keep no place from a good client, and lose their own where places are full."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from model import Reranker
from tests.documents import make_pdf
from tests.patience import PATIENCE_SECONDS, eventually
from tests.servers import RunningService, fake_loader, running_service
from tests.service.http.requests import refused, rerank, rerank_file

PDF = ("a.pdf", make_pdf(1, width=64, height=64), "application/pdf")
DECLARED, CHUNKED = "Content-Length: 100000", "Transfer-Encoding: chunked"


def begin(service: RunningService, framing: str = DECLARED, body: bytes = b"") -> socket.socket:
    """A connection with the head of a rerank request and the beginning of its body."""
    host, port = service.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS)
    head = f"POST /rerank HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{framing}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


@contextmanager
def dripping(service: RunningService, count: int, framing: str = DECLARED) -> Iterator[list[socket.socket]]:
    """So many connections with a body of which one byte has arrived, once the service knows all of them."""
    body = b"{" if framing == DECLARED else b"1\r\n{\r\n"
    with ExitStack() as stack:
        yield [stack.enter_context(begin(service, framing, body)) for _ in range(count)]


def status_of(connection: socket.socket) -> bytes:
    """Of the answer, after which the server closes the connection."""
    answer = b""
    while piece := connection.recv(65536):
        answer += piece
    return answer[9:12]


@pytest.mark.parametrize("framing", [DECLARED, CHUNKED])
def test_bodies_that_drip_take_no_place_of_work(reranker: Reranker, framing: str) -> None:
    limits: dict[str, Any] = {
        "max_concurrent_requests": 4,
        "max_body_bytes": 10**6,
        "max_file_bytes": 10**6,
        "max_in_flight_bytes": 10**6,
    }
    with running_service(fake_loader(reranker), **limits) as service, dripping(service, 12, framing):
        eventually(lambda: service.metric("ziprerank_requests_receiving") == 12)
        answers = [rerank_file(service, PDF).status_code for _ in range(20)]
        assert answers == [200] * 20
        assert service.metric("ziprerank_requests_in_flight") == 12


def test_where_too_many_bodies_drip_they_make_room_for_a_good_client(reranker: Reranker) -> None:
    with running_service(fake_loader(reranker), max_receiving_requests=6) as service, dripping(service, 6) as drips:
        eventually(lambda: service.metric("ziprerank_requests_receiving") == 6)
        drips[0].sendall(b'"query":')  # faster than the others, and slow
        eventually(lambda: rerank_file(service, PDF).status_code == 200, "a sender is slow after a second")
        assert [rerank_file(service, PDF).status_code for _ in range(20)] == [200] * 20
        assert service.metric("ziprerank_requests_receiving") == 5
        assert status_of(drips[1]) == b"408"
        assert service.metric("ziprerank_requests_total", code="408") == 1
        assert service.metric("ziprerank_requests_total", code="200") == 21


def test_bytes_of_slow_senders_make_room_for_a_good_client(reranker: Reranker) -> None:
    limits: dict[str, Any] = {"max_body_bytes": 100_000, "max_file_bytes": 100_000, "max_in_flight_bytes": 200_000}
    slow = b"ea60\r\n" + b" " * 60_000 + b"\r\n"
    with running_service(fake_loader(reranker), **limits, min_body_rate=10**8) as service, ExitStack() as stack:
        drips = [stack.enter_context(begin(service, CHUNKED, slow)) for _ in range(3)]
        eventually(lambda: service.metric("ziprerank_requests_receiving") == 3)
        large = make_pdf(1, width=64, height=64) + b"%" * 60_000
        time.sleep(1.0)  # before, none of them counts as slow
        eventually(lambda: rerank_file(service, ("a.pdf", large, "application/pdf")).status_code == 200)
        assert status_of(drips[0]) == b"408"
        assert service.metric("ziprerank_requests_receiving") == 2


def test_a_body_below_the_minimum_rate_ends_whatever_it_began_with(reranker: Reranker) -> None:
    limits: dict[str, Any] = {"body_idle_seconds": 1.0, "min_body_rate": 1000}
    with (
        running_service(fake_loader(reranker), **limits) as service,
        begin(service, DECLARED, b"{" + b" " * 50_000) as connection,
    ):
        connection.settimeout(0.1)
        sent = 0
        while sent < 1000:  # a byte each tenth of a second, which no pause ends
            try:
                assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
                break
            except TimeoutError:
                connection.sendall(b" ")
                sent += 1
        assert 0 < sent < 1000
        assert rerank_file(service, PDF).status_code == 200


def test_a_body_in_many_small_pieces_is_read_as_it_was_sent(reranker: Reranker) -> None:
    with running_service(fake_loader(reranker)) as service:
        body = b'{"query": "locks", "documents": ["' + b"a small piece " * 3000 + b'"]}'
        with begin(service, f"Content-Length: {len(body)}\r\nConnection: close") as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            start = 0
            for size in [1] * 300 + [20_000, 7, 16_384]:
                connection.sendall(body[start : start + size])
                start += size
            connection.sendall(body[start:])
            assert status_of(connection) == b"200"


def test_a_flood_by_one_key_leaves_a_place_to_another(reranker: Reranker) -> None:
    """Keys are not required here: callers are told apart by what they send."""
    with running_service(fake_loader(reranker), max_receiving_requests=8, body_idle_seconds=600) as service:
        flood = "Authorization: Bearer flood\r\nContent-Length: 100000"
        with ExitStack() as stack:
            for _ in range(8):
                stack.enter_context(begin(service, flood, b"{" + b" " * 40_000))
            eventually(lambda: service.metric("ziprerank_requests_receiving") == 8)
            refusal = rerank(service, ["a text"], headers={"Authorization": "Bearer flood"})
            refused(refusal, 429, "overloaded", "8 requests are being received")
            assert rerank(service, ["a text"], headers={"Authorization": "Bearer other"}).status_code == 200
