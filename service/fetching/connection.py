"""One request to one server: connected by address, the certificate checked against the host's name, limits while receiving.

The HTTP client is httpcore2's HTTP/1.1 connection, which has no cookies, no proxies, no redirects and no decompression, and
which is handed a stream that is connected already, so that it looks up no name.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version

import httpcore2

from service.documents.sources import require_kind
from service.errors import UnsupportedMediaTypeError
from service.fetching.failures import FetchFailure, from_client_error, too_large, unreachable
from service.urls.addresses import IpAddress
from service.urls.url import Url

_MAX_ADDRESSES = 4  # that are tried
_KIND_WITHIN = 1024  # bytes that tell whether a document is a PDF or an image
_PIECES_BETWEEN_PAUSES = 64
_PIECES_OF_ANY_SIZE = 2048
_SMALLEST_MEAN_PIECE = 64  # bytes; each piece costs the event loop about 7 µs, whatever its size

_HEADERS = (
    (b"User-Agent", f"ziprerank/{version('ziprerank')}".encode()),
    (b"Accept", b"application/pdf, image/*"),
    (b"Accept-Encoding", b"identity"),
    (b"Connection", b"close"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connector:
    """Opens connections."""

    backend: httpcore2.AsyncNetworkBackend
    ssl_context: ssl.SSLContext
    idle_seconds: float  # longest time to connect, and longest pause of the server

    @asynccontextmanager
    async def get(self, url: Url, addresses: Sequence[IpAddress]) -> AsyncIterator["Answer"]:
        """The beginning of the server's answer to a GET of the URL. The connection ends with the context.

        addresses: of the URL's host; the first that can be connected to is.
        Raises: FetchFailure.
        """
        connection = _Connection(
            origin=httpcore2.Origin(scheme=url.scheme.encode(), host=url.host.encode(), port=url.port),
            stream=await self._connect(url, addresses),
        )
        try:
            with _failures_of(url, self.idle_seconds):
                response = await connection.handle_async_request(self._request(url))
            yield Answer(response, url=url, idle_seconds=self.idle_seconds)
        finally:
            await connection.aclose()

    async def _connect(self, url: Url, addresses: Sequence[IpAddress]) -> httpcore2.AsyncNetworkStream:
        with _failures_of(url, self.idle_seconds):
            stream = await self._first_connected(addresses[:_MAX_ADDRESSES], url.port)
            if url.scheme == "http":
                return stream
            try:
                return await stream.start_tls(self.ssl_context, url.host, timeout=self.idle_seconds)
            except BaseException:  # cancelling included
                await stream.aclose()
                raise

    async def _first_connected(self, addresses: Sequence[IpAddress], port: int) -> httpcore2.AsyncNetworkStream:
        for address in addresses[:-1]:
            try:
                return await self.backend.connect_tcp(str(address), port, timeout=self.idle_seconds)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return await self.backend.connect_tcp(str(addresses[-1]), port, timeout=self.idle_seconds)

    def _request(self, url: Url) -> httpcore2.Request:
        target = httpcore2.URL(
            scheme=url.scheme.encode(), host=url.host.encode(), port=url.port, target=url.target.encode()
        )
        return httpcore2.Request(
            "GET",
            target,
            headers=[(b"Host", url.authority.encode()), *_HEADERS],
            extensions={"timeout": {"read": self.idle_seconds, "write": self.idle_seconds}},
        )


class Answer:
    """The status and headers of a server's answer, and its body, which is received when it is asked for."""

    def __init__(self, response: httpcore2.Response, *, url: Url, idle_seconds: float) -> None:
        self.status = response.status
        self._response = response
        self._url = url
        self._idle_seconds = idle_seconds

    def header(self, name: str) -> str | None:
        """The first header of the name, bytes outside ASCII as the characters of Latin-1."""
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for key, value in self._response.headers if key.lower() == wanted), None)

    async def read(self, *, max_bytes: int, take: Callable[[int], None]) -> bytearray:
        """The body of a document. take: called with the size of each piece before it is kept.

        Stops at the first byte over the limit, and where the first ones are of no PDF or image. The pixels of an image are
        counted by the raster workers, from its header, before they decode it.
        Raises: FetchFailure.
        """
        self._check_headers(max_bytes)
        data = bytearray()
        pieces = 0
        is_kind_known = False
        with _failures_of(self._url, self._idle_seconds):
            async with aclosing(self._response.aiter_stream()) as stream:
                async for piece in stream:
                    if len(data) + len(piece) > max_bytes:
                        raise too_large(f"more than {max_bytes}", max_bytes)
                    take(len(piece))
                    data += piece
                    if not is_kind_known and len(data) >= _KIND_WITHIN:
                        _require_document(data)
                        is_kind_known = True
                    pieces += 1
                    if pieces > _PIECES_OF_ANY_SIZE and len(data) < pieces * _SMALLEST_MEAN_PIECE:
                        raise unreachable(self._url.host, f"sends pieces of under {_SMALLEST_MEAN_PIECE} bytes")
                    if pieces % _PIECES_BETWEEN_PAUSES == 0:
                        await asyncio.sleep(0)
        return data

    def _check_headers(self, max_bytes: int) -> None:
        if self.status != 200:
            raise unreachable(self._url.host, f"answered with the status {self.status}")
        if (self.header("content-encoding") or "identity").strip().lower() != "identity":
            raise unreachable(self._url.host, "sent the document compressed, which was not asked for")
        declared = self.header("content-length")
        if declared is not None and int(declared) > max_bytes:
            raise too_large(str(int(declared)), max_bytes)


class _Connection(httpcore2.AsyncHTTP11Connection):
    READ_NUM_BYTES = 16 * 1024
    MAX_INCOMPLETE_EVENT_SIZE = 16 * 1024  # headers; of the client's own 100 KB, 20,000 headers hold the event loop


def _require_document(data: bytearray) -> None:
    try:
        require_kind(data)
    except UnsupportedMediaTypeError as error:
        raise FetchFailure(error, outcome="media", reason="neither a PDF nor an image") from error


@contextmanager
def _failures_of(url: Url, idle_seconds: float) -> Iterator[None]:
    """Raises FetchFailure for errors of the HTTP client and of sockets."""
    try:
        yield
    except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException, OSError) as error:
        raise from_client_error(error, url.host, idle_seconds=idle_seconds) from error
