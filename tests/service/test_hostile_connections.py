"""What clients do to a service with its connections alone, while a good client goes on: no key is needed for any of it."""

import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from model import PageScores, PreparedRequest, Reranker, score_in_input_order
from service.http_protocol import HttpProtocol
from service.settings import Settings
from tests.documents import make_pdf
from tests.patience import PATIENCE_SECONDS, TICK_SECONDS, eventually
from tests.servers import RunningService, fake_loader, running_service
from tests.service.http.requests import rerank_file

_PDF = ("a.pdf", make_pdf(1, width=64, height=64), "application/pdf")
_LIVEZ = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def service(reranker: Reranker) -> Iterator[RunningService]:
    with running_service(fake_loader(reranker), header_seconds=1, write_idle_seconds=1) as running:
        yield running


@contextmanager
def _connections(service: RunningService, number: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(_connect(service)) for _ in range(number)]


def _connect(service: RunningService, *, receive_bytes: int | None = None) -> socket.socket:
    """receive_bytes: of the answers, that the system keeps for a client that does not read."""
    connection = socket.socket()
    connection.settimeout(PATIENCE_SECONDS)
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.connect(("127.0.0.1", service.server.port))
    return connection


def _received(connection: socket.socket, is_over: Callable[[bytes], bool] = lambda answer: False) -> bytes:
    """What comes until the service closes the connection, or all is there."""
    answer = b""
    try:
        while not is_over(answer) and (piece := connection.recv(65536)):
            answer += piece
    except ConnectionResetError:
        pass
    return answer


def _rerank_request(service: RunningService, *, version: str = "1.1") -> bytes:
    request = service.client.build_request("POST", "/rerank", data={"query": "locks"}, files=[("file", _PDF)])
    headers = f"Content-Type: {request.headers['content-type']}\r\nContent-Length: {request.headers['content-length']}"
    return f"POST /rerank HTTP/{version}\r\nHost: a\r\n{headers}\r\n\r\n".encode() + request.read()


class _Gate:
    """A forward pass that waits until the test opens it."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, batch: Sequence[PreparedRequest]) -> list[PageScores]:
        self.entered.set()
        assert self.opened.wait(PATIENCE_SECONDS)
        return score_in_input_order(batch)


@pytest.mark.parametrize("is_kept", [False, True], ids=["new connections", "kept connections"])
def test_a_head_that_drips_ends_in_time(service: RunningService, is_kept: bool) -> None:
    with _connections(service, 8) as dripping, ThreadPoolExecutor(8) as threads:
        if is_kept:
            for connection in dripping:
                connection.sendall(_LIVEZ)
                _received(connection, lambda answer: answer.endswith(b"}"))
        stop = threading.Event()
        threads.map(lambda connection: _drip(connection, stop), dripping)
        try:
            answers = [_received(connection) for connection in dripping]
        finally:
            stop.set()
        assert service.client.get("/livez").status_code == 200
    # A reset may take the answer away from a client that goes on to send.
    assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in answers if answer)
    assert any(b'"request_timeout"' in answer for answer in answers)


def _drip(connection: socket.socket, stop: threading.Event) -> None:
    try:
        connection.sendall(b"GET /livez HTTP/1.1\r\nA: ")
        while not stop.wait(10 * TICK_SECONDS):
            connection.sendall(b"a")
    except OSError:
        pass


def test_an_idle_crowd_gives_way_to_a_good_client(reranker: Reranker) -> None:
    with running_service(fake_loader(reranker), max_connections=8) as service, _connections(service, 100) as crowd:
        for _ in range(20):
            with httpx.Client(base_url=service.url, timeout=PATIENCE_SECONDS) as good:
                assert good.get("/livez").status_code == 200
        eventually(lambda: len(service.server.server_state.connections) <= 8, "the others are closed")
        assert all(_received(connection) == b"" for connection in crowd[:50])


def test_a_kept_connection_outlives_those_that_were_never_used(reranker: Reranker) -> None:
    with running_service(fake_loader(reranker), max_connections=8) as service:
        (kept,) = service.server.server_state.connections
        with _connections(service, 100) as crowd:
            _received(crowd[0])
            assert service.client.get("/livez").status_code == 200
            assert kept in service.server.server_state.connections


def test_where_no_connection_is_idle_a_new_one_is_refused_at_once(reranker: Reranker) -> None:
    gate = _Gate()
    with running_service(fake_loader(reranker, gate), max_connections=2) as service:
        with ThreadPoolExecutor(2) as threads:
            request = _rerank_request(service)
            with _connect(service) as first, _connect(service) as second:
                for connection in (first, second):
                    connection.sendall(request)
                answers = [
                    threads.submit(_received, each, lambda answer: b'"meta"' in answer) for each in (first, second)
                ]
                eventually(lambda: len(service.server.server_state.tasks) == 2, "both requests run")
                with httpx.Client(base_url=service.url, timeout=PATIENCE_SECONDS) as late:
                    refusal = late.get("/livez")
                gate.opened.set()
                assert all(b" 200 OK\r\n" in answer.result() for answer in answers)
        assert (refusal.status_code, refusal.json()["code"]) == (503, "too_many_connections")
        assert refusal.headers["retry-after"] and refusal.headers["connection"] == "close"


def test_a_client_that_does_not_read_loses_its_connection(service: RunningService) -> None:
    with ExitStack() as stack:
        unread = [stack.enter_context(_connect(service, receive_bytes=4096)) for _ in range(8)]
        for connection in unread:
            connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 100)
        eventually(lambda: _unread(service) == 8, "the answers do not fit into what the system keeps")
        eventually(lambda: _unread(service) == 0, "those connections are closed")
        assert service.client.get("/livez").status_code == 200


def test_an_answer_that_is_not_read_holds_no_place(reranker: Reranker) -> None:
    with (
        running_service(fake_loader(reranker), max_concurrent_requests=2, url_fetch_requests=1) as service,
        ExitStack() as stack,
    ):
        unread = [stack.enter_context(_connect(service, receive_bytes=4096)) for _ in range(4)]
        for connection in unread:
            connection.setblocking(False)
        requests = b"POST /rerank HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n{" * 50
        while _unread(service) < 4:
            for connection in unread:
                with suppress(BlockingIOError):
                    connection.send(requests)
        eventually(lambda: service.metric("ziprerank_requests_in_flight") == 0)
        assert _unread(service) == 4
        assert rerank_file(service, _PDF).status_code == 200


def _unread(service: RunningService) -> int:
    """Connections whose client takes nothing at the moment."""
    connections = list(service.server.server_state.connections)
    return sum(isinstance(each, HttpProtocol) and each.flow.write_paused for each in connections)


def test_the_operators_table_has_these_limits_with_their_defaults() -> None:
    readme = Path(__file__).parents[2] / "deploy" / "README.md"
    section = readme.read_text().partition("## Limits of connections")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (\S+) \|", section, re.MULTILINE))
    names = ["MAX_CONNECTIONS", "MAX_HEADER_BYTES", "MAX_HEADERS", "HEADER_SECONDS", "WRITE_IDLE_SECONDS"]
    assert rows == {name: f"{Settings.model_fields[name.lower()].default:.0f}" for name in names}


def test_a_client_that_has_sent_all_and_says_so_gets_its_answer(reranker: Reranker) -> None:
    gate = _Gate()
    with running_service(fake_loader(reranker, gate)) as service, _connect(service) as connection:
        connection.sendall(_rerank_request(service))
        connection.shutdown(socket.SHUT_WR)
        assert gate.entered.wait(PATIENCE_SECONDS)
        _received(connection, lambda answer: answer == b"HTTP/1.1 100 Continue\r\n\r\n" * 2)  # the probes
        gate.opened.set()
        answer = _received(connection)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(b"}")
        assert service.metric("ziprerank_requests_total", code="200") == 1


def test_pipelined_requests_are_all_answered_after_a_half_close(service: RunningService) -> None:
    with _connect(service) as connection:
        connection.sendall(_rerank_request(service) + _LIVEZ * 2)
        connection.shutdown(socket.SHUT_WR)
        answer = _received(connection)
        assert answer.count(b" 200 OK\r\n") == 3


@pytest.mark.parametrize(("version", "cut"), [("1.1", 1), ("1.0", 0)], ids=["an incomplete body", "HTTP/1.0"])
def test_other_half_closes_end_the_request(reranker: Reranker, version: str, cut: int) -> None:
    with running_service(fake_loader(reranker, _Gate())) as service, _connect(service) as connection:
        request = _rerank_request(service, version=version)
        connection.sendall(request[: len(request) - cut])
        connection.shutdown(socket.SHUT_WR)
        assert b" 200 OK" not in _received(connection)
        eventually(lambda: service.metric("ziprerank_requests_total", code="499") == 1)
