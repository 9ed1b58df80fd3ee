"""Names of hosts to addresses, by the system's resolver, in threads that nothing else waits for."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

from service.urls.addresses import IpAddress

_THREADS = 16

Resolve = Callable[[str], Awaitable[Sequence[IpAddress]]]
"""The addresses of a full domain name. Raises: OSError."""


class SystemResolver:
    """Used on the event loop. A lookup cannot be cancelled; its thread goes on until the system gives up."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="resolve")

    async def __call__(self, host: str) -> Sequence[IpAddress]:
        """All addresses, the system's preferred ones first, as a full name: the system's search list is not looked through.

        Raises: OSError.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str) -> Sequence[IpAddress]:
    found = socket.getaddrinfo(f"{host}.".encode(), None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return list(dict.fromkeys(ip_address(address[0]) for *_, address in found))
