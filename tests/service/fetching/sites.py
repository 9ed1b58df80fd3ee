"""A small internet on loopback: sites written by hand, names that a recording resolver knows, and a record of all sockets."""

import asyncio
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from service.errors import ServiceError
from service.fetching.fetcher import FetchLimits, UrlFetcher
from service.urls.addresses import IpAddress, is_public
from service.urls.policy import parse_policy
from tests.patience import PATIENCE_SECONDS

LOOPBACK = "127.0.0.1"
TLS = Path(__file__).parents[2] / "data" / "tls"
"""An authority and the certificate of files.test and *.files.test, valid until 2126. Made by openssl: an EC key on P-256 for
each, `req -x509` for the authority, whose key was not kept, and `x509 -req -CA` for the server."""

Answer = bytes | Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""The bytes of a whole response, or a function that writes one."""

_records: list[list[tuple[str, Any]]] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _records and event in ("socket.connect", "socket.getaddrinfo"):
        for record in _records:
            record.append((event, arguments[1] if event == "socket.connect" else arguments[0]))


sys.addaudithook(_audit)  # for the life of the process; it does nothing unless a test records


@contextmanager
def recorded_sockets() -> Iterator[list[tuple[str, Any]]]:
    """Every connection of the process, as ("socket.connect", address), and every name it looks up, as Python itself reports
    them."""
    record: list[tuple[str, Any]] = []
    _records.append(record)
    try:
        yield record
    finally:
        _records.remove(record)


def response(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    return response(b"secret", f"Location: {location}", "Set-Cookie: a=b", status=status)


class Site:
    """A server on loopback. It answers a path of `answers`, ends the connection, and keeps the heads of requests."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answers: dict[str, Answer] = {}
        self.heads: list[bytes] = []
        self.server_names: list[str | None] = []  # that clients asked for by TLS
        self.open_connections = 0

    @property
    def paths(self) -> list[str]:
        return [head.split()[1].decode() for head in self.heads]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open_connections += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            answer = self.answers[self.paths[-1]]
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            self.open_connections -= 1
            writer.close()


@asynccontextmanager
async def running_site(answers: Mapping[str, Answer], *, with_tls: bool = False) -> AsyncIterator[Site]:
    listening = socket.create_server((LOOPBACK, 0))
    site = Site(listening.getsockname()[1])
    site.answers.update(answers)
    context = _server_context(site) if with_tls else None
    server = await asyncio.start_server(site.serve, sock=listening, ssl=context, limit=1 << 16)
    async with server:
        yield site


def _server_context(site: Site) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "server.pem", TLS / "server.key")
    context.sni_callback = lambda connection, name, context: site.server_names.append(name)
    return context


def trusting_context() -> ssl.SSLContext:
    """Of a client that trusts the authority of the tests alone."""
    return ssl.create_default_context(cafile=TLS / "authority.pem")


class Names:
    """A resolver that records. Each lookup of a name has the next of its answers; the last one stays."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        """answers: lists of addresses, by names that are written with _ for the dot."""
        self.lookups: list[str] = []
        self._answers = {name.replace("_", "."): list(lists) for name, lists in answers.items()}

    async def __call__(self, host: str) -> Sequence[IpAddress]:
        self.lookups.append(host)
        if host not in self._answers:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        answers = self._answers[host]
        return [ip_address(address) for address in (answers.pop(0) if len(answers) > 1 else answers[0])]


def is_the_sites(address: IpAddress) -> bool:
    """The check of addresses, except that the sites' own counts as public."""
    return str(address) == LOOPBACK or is_public(address)


def make_fetcher(
    policy: str,
    names: Names | None = None,
    *,
    outcomes: list[str] | None = None,
    may_connect: Callable[[IpAddress], bool] = is_the_sites,
    ssl_context: ssl.SSLContext | None = None,
    **limits: Any,
) -> UrlFetcher:
    """A fetcher for sites, which gives up nothing before a test does unless `limits` say so."""
    values: dict[str, Any] = {
        "max_file_bytes": 1 << 20, "max_request_bytes": 4 << 20, "max_held_bytes": 16 << 20, "max_requests": 16,
        "seconds": PATIENCE_SECONDS, "idle_seconds": PATIENCE_SECONDS,
    }  # fmt: skip
    return UrlFetcher(
        parse_policy(policy),
        FetchLimits(**{**values, **limits}),
        on_fetched=(outcomes if outcomes is not None else []).append,
        resolve=names or Names(files_test=[[LOOPBACK]]),
        may_connect=may_connect,
        ssl_context=ssl_context,
    )


async def fetch(fetcher: UrlFetcher, *urls: str) -> list[bytes]:
    """The documents of a request. Raises: ServiceError."""
    async with fetcher.fetched(dict(enumerate(urls)), request_id="rerank-1") as documents:
        return [bytes_of(documents[index]) for index in range(len(urls))]


def bytes_of(document: bytearray | ServiceError) -> bytes:
    """Of a document that was fetched."""
    assert isinstance(document, bytearray), document
    return bytes(document)
