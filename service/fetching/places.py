"""Places and bytes for requests that fetch, so that slow hosts and large documents leave the service to all others."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Set
from contextlib import asynccontextmanager, contextmanager
from weakref import WeakValueDictionary

from service.errors import OverloadedError
from service.fetching.failures import FetchFailure, too_large
from service.retry_after import retry_after

CONNECTIONS_OF_REQUEST = 4
CONNECTIONS_TO_HOST = 8
_CONNECTIONS = 32
_USUAL_SECONDS = 2.0  # of a request that fetches


class FetchPlaces:
    """Counts the requests that fetch, and their connections. Belongs to the event loop."""

    def __init__(self, max_requests: int) -> None:
        self.requests = 0  # that are fetching
        self._max_requests = max_requests
        self._max_requests_of_host = (max_requests + 1) // 2
        self._requests_by_host: Counter[str] = Counter()
        self._connections = asyncio.Semaphore(_CONNECTIONS)
        self._connections_by_host: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @contextmanager
    def request(self, hosts: Set[str]) -> Iterator[None]:
        """A place for a request while it fetches from these hosts. One host can hold half of all places.

        Raises: OverloadedError.
        """
        if self.requests >= self._max_requests:
            raise _overloaded(f"{self.requests} requests are fetching documents, which is the limit")
        for host in sorted(hosts):
            if self._requests_by_host[host] >= self._max_requests_of_host:
                requests = self._requests_by_host[host]
                raise _overloaded(f"{requests} requests are fetching documents from {host}, which is the limit")
        self.requests += 1
        self._requests_by_host.update(hosts)
        try:
            yield
        finally:
            self.requests -= 1
            self._requests_by_host.subtract(hosts)
            self._requests_by_host += Counter()  # which drops the hosts that have none

    @asynccontextmanager
    async def connection(self, host: str) -> AsyncIterator[None]:
        """A place for one connection to the host; waits for it."""
        semaphore = self._connections_by_host.setdefault(host, asyncio.Semaphore(CONNECTIONS_TO_HOST))
        async with semaphore, self._connections:
            yield


class FetchMemory:
    """Counts the bytes of fetched documents while the requests' pages are loaded. Belongs to the event loop."""

    def __init__(self, *, max_request_bytes: int, max_bytes: int) -> None:
        self.bytes = 0  # of all requests together
        self.max_request_bytes = max_request_bytes
        self.max_bytes = max_bytes

    @contextmanager
    def share(self) -> Iterator["MemoryShare"]:
        """The share of one request, which is given back at the end."""
        share = MemoryShare(self)
        try:
            yield share
        finally:
            self.bytes -= share.bytes


class MemoryShare:
    """The bytes of one request's documents. Made by `FetchMemory.share`."""

    def __init__(self, memory: FetchMemory) -> None:
        self.bytes = 0
        self._memory = memory

    def take(self, size: int) -> None:
        """Raises: FetchFailure, with a TooLargeError or an OverloadedError."""
        memory = self._memory
        if self.bytes + size > memory.max_request_bytes:
            raise too_large(
                f"together with the request's other documents more than {self.bytes}", memory.max_request_bytes
            )
        if memory.bytes + size > memory.max_bytes:
            error = _overloaded(
                f"{memory.bytes} bytes of fetched documents are held and the limit is {memory.max_bytes}"
            )
            raise FetchFailure(error, outcome="overloaded", reason="memory for documents")
        self.bytes += size
        memory.bytes += size


def _overloaded(reason: str) -> OverloadedError:
    message = f"{reason}. Try again later, or send the document itself."
    return OverloadedError("overloaded", message, retry_after_seconds=retry_after(_USUAL_SECONDS))
