import asyncio
import socket
import threading
from ipaddress import ip_address
from typing import Any

import pytest

from service.fetching.resolver import SystemResolver


def test_a_name_is_looked_up_as_a_full_name_and_not_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def getaddrinfo(host: bytes, port: None, *, type: int, flags: int) -> list[tuple[Any, ...]]:
        asked.append((host, port, type, flags, threading.current_thread() is threading.main_thread()))
        addresses = [("2606:4700::1111", 0, 0, 0), ("8.8.8.8", 0), ("8.8.8.8", 0)]
        return [(socket.AF_INET, type, 6, "", address) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def scenario() -> None:
        resolver = SystemResolver()
        assert await resolver("example.org") == [ip_address("2606:4700::1111"), ip_address("8.8.8.8")]
        resolver.close()

    asyncio.run(scenario())
    assert asked == [(b"example.org.", None, socket.SOCK_STREAM, socket.AI_ADDRCONFIG, False)]


def test_a_name_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*arguments: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def scenario() -> None:
        resolver = SystemResolver()
        with pytest.raises(OSError):
            await resolver("gone.example")
        resolver.close()

    asyncio.run(scenario())
