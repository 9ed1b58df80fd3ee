"""The protocol on real sockets: whatever the split of the bytes, the requests that are read are those that were sent."""

import asyncio
import itertools
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn import Config
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.server import ServerState

from service.connections import ConnectionLimits, Connections
from service.http_protocol import HttpProtocol
from tests.patience import PATIENCE_SECONDS, until

_MAX_HEAD_BYTES = 32 * 1024
_HIDDEN = b"POST /hidden HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
_OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
_ANSWER = re.compile(rb"HTTP/1\.1 (\d{3}) .*?\r\n\r\n", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    path: str
    body: bytes
    raw: bytes


def _request(path: str, body: bytes, headers: bytes = b"", *, chunks: Sequence[int] | None = None) -> _Sent:
    """chunks: sizes of the first ones, for a body in chunks."""
    if chunks is None:
        framing, framed = b"Content-Length: %d" % len(body), body
    else:
        framing, framed, start = b"Transfer-Encoding: chunked", b"", 0
        for size in [*chunks, len(body)]:
            if piece := body[start : start + size]:
                framed += b"%x\r\n%s\r\n" % (len(piece), piece)
            start += size
        framed += b"0\r\n\r\n"
    head = b"POST %s HTTP/1.1\r\nHost: a\r\n%s%s\r\n\r\n" % (path.encode(), headers, framing)
    return _Sent(path=path, body=body, raw=head + framed)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    paths: list[str]
    bodies: list[bytes]  # of the requests to /read
    headers: list[bytes]  # names, of all requests to /read, after their bodies
    answers: bytes


def _exchange(
    pieces: Sequence[bytes],
    is_over: Callable[[bytes], bool],
    *,
    keep_alive: float = PATIENCE_SECONDS,
    header_seconds: float = PATIENCE_SECONDS,
    body_seconds: float = PATIENCE_SECONDS,
) -> _Seen:
    """Send the pieces, each as one packet, and read until the answers are complete, or the connection is closed."""
    paths: list[str] = []
    bodies: list[bytes] = []
    headers: list[bytes] = []

    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        assert scope["type"] == "http"
        paths.append(scope["path"])
        body, is_more = b"", scope["path"] != "/refuse"
        while is_more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message["body"]
            is_more = message["more_body"] and scope["path"] == "/read"
        if scope["path"] == "/read":
            bodies.append(body)
            headers.extend(name for name, _ in scope["headers"])
        status = 413 if scope["path"] == "/refuse" else 200
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok", "more_body": False})

    async def run() -> bytes:
        loop = asyncio.get_running_loop()
        config = Config(app, ws="none", lifespan="off", log_config=None)
        config.timeout_keep_alive = keep_alive  # type: ignore[assignment]  # which uvicorn hands to the event loop
        config.load()
        limits = ConnectionLimits(
            max_connections=1,
            max_header_bytes=_MAX_HEAD_BYTES,
            max_headers=100,
            header_seconds=header_seconds,
            body_seconds=body_seconds,
            write_idle_seconds=PATIENCE_SECONDS,
        )
        connections = Connections(limits)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        state = ServerState()
        await loop.connect_accepted_socket(
            lambda: HttpProtocol(config, state, {}, connections=connections, replica="a"), theirs
        )
        answers = b""
        with ours:
            for piece in pieces:
                try:
                    await loop.sock_sendall(ours, piece)
                except (BrokenPipeError, ConnectionResetError):
                    break
                await asyncio.sleep(0)  # the server reads what was sent,
                await asyncio.sleep(0)  # and its application runs
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not is_over(answers):
                    try:
                        received = await loop.sock_recv(ours, 65536)
                    except ConnectionResetError:
                        break
                    if not received:
                        break
                    answers += received
        await until(lambda: not state.connections and not state.tasks)
        return answers

    answers = asyncio.run(run())
    return _Seen(paths=paths, bodies=bodies, headers=headers, answers=answers)


def _split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = [0, *sorted({cut % len(data) for cut in cuts} - {0}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(places)]


def _statuses(answers: bytes) -> list[int]:
    return [int(status) for status in _ANSWER.findall(answers)]


_requests = st.builds(
    _request,
    st.sampled_from(["/read", "/refuse", "/half"]),
    st.lists(st.sampled_from([_HIDDEN, b"0\r\n\r\n" + _HIDDEN, b"\r\n", b"{}", b"x" * 300]), max_size=4).map(b"".join),
    st.lists(st.sampled_from([_OFFER, b"Upgrade: websocket\r\nConnection: upgrade\r\n", b"Accept: a\r\n"])).map(
        lambda headers: b"".join(dict.fromkeys(headers))
    ),
    chunks=st.none() | st.lists(st.integers(1, 100), max_size=3),
)


@given(sent=st.lists(_requests, min_size=1, max_size=4), cuts=st.lists(st.integers(1, 10**6), max_size=12))
def test_the_requests_that_are_read_are_those_that_were_sent(sent: list[_Sent], cuts: list[int]) -> None:
    pieces = _split(b"".join(request.raw for request in sent), cuts)
    seen = _exchange(pieces, lambda answers: len(_statuses(answers)) == len(sent) and answers.endswith(b"ok"))
    assert seen.paths == [request.path for request in sent]
    assert seen.bodies == [request.body for request in sent if request.path == "/read"]
    assert _statuses(seen.answers) == [413 if request.path == "/refuse" else 200 for request in sent]


@pytest.mark.parametrize("path", ["/read", "/refuse"])
def test_an_offered_upgrade_is_ignored_wherever_its_bytes_are_cut(path: str) -> None:
    raw = _request(path, _HIDDEN, _OFFER).raw + _request("/read", b"2").raw
    for cut in range(1, len(raw)):
        seen = _exchange([raw[:cut], raw[cut:]], lambda answers: answers.count(b"ok") == 2)
        assert seen.paths == [path, "/read"], cut


_AMBIGUOUS = {
    "length and chunks": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "chunks and length": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: 49\r\n",
    "the same length twice": b"Content-Length: 5\r\nContent-Length: 5\r\n",
    "a list of lengths": b"Content-Length: 5, 5\r\n",
    "a signed length": b"Content-Length: +5\r\n",
    "a space before the colon": b"Content-Length : 5\r\n",
    "a folded header": b"Content-Length:\r\n 5\r\n",
    "chunks twice": b"Transfer-Encoding: chunked, chunked\r\n",
    "chunks that are not last": b"Transfer-Encoding: chunked, gzip\r\n",
    "an unknown coding": b"Transfer-Encoding: xchunked\r\n",
    "a bare line feed": b"Content-Length: 5\n",
}


@given(name=st.sampled_from(sorted(_AMBIGUOUS)), offer=st.booleans(), cuts=st.lists(st.integers(1, 10**6), max_size=8))
def test_a_length_that_can_be_read_in_two_ways_is_refused_and_nothing_behind_it_is_read(
    name: str, offer: bool, cuts: list[int]
) -> None:
    headers = (_OFFER if offer else b"") + _AMBIGUOUS[name]
    raw = b"POST /read HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n0\r\n\r\n" + _HIDDEN
    seen = _exchange(_split(raw, cuts), lambda answers: False)
    assert seen.bodies == [] and "/hidden" not in seen.paths
    assert _statuses(seen.answers) == [400]


@pytest.mark.parametrize("raw", [b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
def test_what_is_not_a_request_for_this_server_is_refused_and_nothing_behind_it_is_read(raw: bytes) -> None:
    seen = _exchange([raw + _HIDDEN], lambda answers: False)
    assert seen.paths == [] and _statuses(seen.answers) == [400]


def test_an_answer_that_is_due_is_sent_before_a_fault_ends_the_connection() -> None:
    seen = _exchange([_request("/read", b"1").raw + b"nonsense\r\n\r\n" + _HIDDEN], lambda answers: False)
    assert seen.paths == ["/read"] and _statuses(seen.answers) == [200]


@pytest.mark.parametrize(
    ("head", "remedy"),
    [
        (b"A: " + b"a" * (2 * _MAX_HEAD_BYTES), b"over 32768 bytes, the limit"),
        (b"A: aaaaaaaaaa\r\n" * (_MAX_HEAD_BYTES // 10), b"more than 100 headers, the limit"),
        (b"A:\r\n" * 101, b"more than 100 headers, the limit"),
        (b"A: aaaaaaaaaa\r\n" * 90 + b"A: " + b"a" * (2 * _MAX_HEAD_BYTES), b"over 32768 bytes, the limit"),
        (b"Transfer-Encoding: chunked\r\n\r\n0\r\nA: " + b"a" * (2 * _MAX_HEAD_BYTES), b"over 32768 bytes, the limit"),
        (b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"A:\r\n" * 101, b"more than 100 headers, the limit"),
        (b"Transfer-Encoding: chunked\r\n\r\n1;a=" + b"a" * (2 * _MAX_HEAD_BYTES), b"over 32768 bytes, the limit"),
    ],
    ids=[
        "a long header",
        "many",
        "empty ones",
        "a last long one",
        "a long trailer",
        "many trailers",
        "a long extension",
    ],
)
def test_a_head_over_a_limit_is_refused_before_it_is_complete(head: bytes, remedy: bytes) -> None:
    raw = b"POST /read HTTP/1.1\r\nHost: a\r\n" + head
    pieces = [raw[start : start + 8192] for start in range(0, len(raw), 8192)]
    seen = _exchange(pieces, lambda answers: False)
    assert seen.bodies == [] and _statuses(seen.answers) == [431]
    assert remedy in seen.answers and b"\r\nconnection: close\r\n" in seen.answers
    body = orjson.loads(seen.answers.partition(b"\r\n\r\n")[2])
    assert (body["status"], body["code"]) == (431, "head_too_large")
    assert b"\r\nx-request-id: %s\r\n" % body["request_id"].encode() in seen.answers


@pytest.mark.parametrize("headers", [b"A: " + b"a" * 32_000 + b"\r\n", b"A: a\r\n" * 98], ids=["bytes", "number"])
def test_a_head_below_the_limits_is_read(headers: bytes) -> None:
    seen = _exchange([_request("/read", b"1", headers).raw], lambda answers: answers.endswith(b"ok"))
    assert seen.bodies == [b"1"]


def test_the_limits_are_those_of_one_request() -> None:
    sent = _request("/read", b"1", b"A: " + b"a" * 20_000 + b"\r\n" + b"A: a\r\n" * 60).raw
    seen = _exchange([sent, sent, sent], lambda answers: answers.count(b"ok") == 3)
    assert seen.bodies == [b"1"] * 3


def test_a_trailer_is_no_header() -> None:
    raw = b"POST /read HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nAuthorization: a\r\n\r\n"
    seen = _exchange([raw], lambda answers: answers.endswith(b"ok"))
    assert seen.bodies == [b"a"] and seen.headers == [b"transfer-encoding"]


@pytest.mark.parametrize(
    "parts", [(), (_request("/read", b"1").raw,), (_request("/refuse", b"").raw[:-4], b"\r\n\r\n")]
)
def test_a_connection_on_which_nothing_is_answered_is_closed_after_the_keep_alive_time(parts: Sequence[bytes]) -> None:
    _exchange(parts, lambda answers: False, keep_alive=0.2)  # which waits until the server has closed it


@pytest.mark.parametrize("first", [b"", _request("/read", b"1").raw, _request("/refuse", b"1").raw])
@pytest.mark.parametrize("beginning", [b"P", b"POST /read HTTP/1.1\r\nHost: a\r\n", b"POST /read HTTP/1.1\r\n\r"])
@pytest.mark.parametrize("is_apart", [True, False])
def test_a_head_that_is_not_complete_in_time_is_refused(first: bytes, beginning: bytes, is_apart: bool) -> None:
    seen = _exchange([first, beginning] if is_apart else [first + beginning], lambda answers: False, header_seconds=0.2)
    answered = [200 if b"/read" in first else 413] if first else []
    # A head behind a request whose answer took as long, on a loaded machine, ends the connection after that answer.
    assert _statuses(seen.answers) in ([*answered, 408], answered or [408])


def test_line_ends_before_a_request_are_skipped_and_do_not_keep_a_connection_open() -> None:
    seen = _exchange([b"\r\n", _request("/read", b"1").raw, b"\r\n"], lambda answers: False, header_seconds=0.2)
    assert seen.bodies == [b"1"] and _statuses(seen.answers) == [200]


def test_the_rest_of_a_body_whose_request_was_refused_has_to_come_in_time() -> None:
    seen = _exchange([_request("/refuse", b"12").raw[:-1]], lambda answers: False, body_seconds=0.2)
    assert _statuses(seen.answers) == [413]


def test_it_is_closed_too_where_the_body_of_a_refused_request_came_late() -> None:
    raw = _request("/refuse", b"12").raw
    seen = _exchange([raw[:-2], raw[-2:]], lambda answers: False, keep_alive=0.2)
    assert seen.paths == ["/refuse"] and _statuses(seen.answers) == [413]
