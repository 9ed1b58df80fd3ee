"""Documents from URLs: each URL and each redirect is read by one parser, checked against the list of hosts and the addresses,
and connected to at the very address that was checked."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpcore2

from service.errors import ServiceError, UnusableDocumentError, is_of_document
from service.fetching.connection import Answer, Connector
from service.fetching.failures import FetchFailure, no_public_address, refused_redirect, too_slow, unreachable
from service.fetching.places import CONNECTIONS_OF_REQUEST, FetchMemory, FetchPlaces, MemoryShare
from service.fetching.resolver import Resolve, SystemResolver
from service.urls.addresses import IpAddress, is_public
from service.urls.policy import UrlPolicy
from service.urls.url import Url, follow, parse_url

MAX_REDIRECTS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """Limits of the fetching."""

    max_file_bytes: int  # of one document
    max_request_bytes: int  # of all documents fetched for one request
    max_held_bytes: int  # of all requests whose documents are in memory
    max_requests: int  # that fetch at once; more are refused
    seconds: float  # for all documents of one request
    idle_seconds: float = 5.0  # to connect to a server, and between two pieces of its answer


class UrlFetcher:
    """Fetches the documents of requests. Belongs to the event loop."""

    def __init__(
        self,
        policy: UrlPolicy,
        limits: FetchLimits,
        *,
        on_fetched: Callable[[str], None],
        resolve: Resolve | None = None,
        may_connect: Callable[[IpAddress], bool] = is_public,
        backend: httpcore2.AsyncNetworkBackend | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """on_fetched: called with the outcome of each fetch.

        The others are for tests, which have no public servers. By default: the system's resolver and its certificates.
        """
        self._policy = policy
        self._limits = limits
        self._on_fetched = on_fetched
        self._system_resolver = SystemResolver()
        self._resolve = self._system_resolver if resolve is None else resolve
        self._may_connect = may_connect
        self._connector = Connector(
            backend=httpcore2.AnyIOBackend() if backend is None else backend,
            ssl_context=_client_context(policy) if ssl_context is None else ssl_context,
            idle_seconds=limits.idle_seconds,
        )
        self._places = FetchPlaces(limits.max_requests)
        self._memory = FetchMemory(max_request_bytes=limits.max_request_bytes, max_bytes=limits.max_held_bytes)

    @property
    def is_on(self) -> bool:
        """Whether any URL can be fetched."""
        return not self._policy.is_off

    @property
    def requests(self) -> int:
        """Requests that are fetching."""
        return self._places.requests

    @property
    def held_bytes(self) -> int:
        """Of all fetched documents that are in memory."""
        return self._memory.bytes

    @asynccontextmanager
    async def fetched(
        self, urls: Mapping[int, str], *, request_id: str, skips_unusable: bool = False
    ) -> AsyncIterator[Mapping[int, bytearray | ServiceError]]:
        """The documents of one request. Several with one URL are fetched once. Cancelling closes the connections.

        urls: by the document's index. request_id: for the log. The bytes count as in memory until the context ends.
        skips_unusable: a document that cannot be fetched has its error in its place, and the others are fetched.
        Raises: UnusableDocumentError, TooLargeError, UnsupportedMediaTypeError about a document, unless it is skipped;
        OverloadedError.
        """
        found: dict[int, bytearray | ServiceError] = {}
        checked: dict[int, Url] = {}
        for index, url in urls.items():
            try:
                checked[index] = self._check(index, url)
            except UnusableDocumentError as error:
                if not skips_unusable:
                    raise
                found[index] = error
        with self._memory.share() as share:
            with self._places.request({url.host for url in checked.values()}):
                found |= await self._fetch_all(checked, share, request_id, skips_unusable=skips_unusable)
            yield found

    def close(self) -> None:
        """No further fetch is possible."""
        self._system_resolver.close()

    def _check(self, index: int, text: str) -> Url:
        """Raises: UnusableDocumentError."""
        if self._policy.is_off:
            message = (
                "URLs are not fetched here. Send the document itself, or have the operator set ZIPRERANK_URL_FETCH."
            )
            raise UnusableDocumentError("url_not_supported", message, field="content", document_index=index)
        try:
            url = parse_url(text)
            if not self._policy.allows(url):
                message = (
                    f"{url.origin} is not among the hosts that are fetched from. Send the document itself, or have the "
                    "operator list the host in ZIPRERANK_URL_FETCH."
                )
                raise UnusableDocumentError("url_refused", message, field="content")
        except UnusableDocumentError as error:
            self._on_fetched("refused")
            raise error.at(document_index=index) from error
        return url

    async def _fetch_all(
        self, urls: Mapping[int, Url], share: MemoryShare, request_id: str, *, skips_unusable: bool
    ) -> dict[int, bytearray | ServiceError]:
        indices = {url: index for index, url in reversed(list(urls.items()))}  # the first document of each URL
        places = asyncio.Semaphore(CONNECTIONS_OF_REQUEST)
        tasks = {
            url: asyncio.create_task(
                self._fetch(url, indices[url], places, share, request_id, skips_unusable=skips_unusable)
            )
            for url in dict.fromkeys(urls.values())
        }
        found: dict[Url, bytearray | ServiceError] = {}
        try:
            async with asyncio.timeout(self._limits.seconds):
                await asyncio.gather(*tasks.values())
        except TimeoutError:
            for url in [url for url, task in tasks.items() if task.cancelled()]:
                error = self._failed(too_slow(self._limits.seconds), url, indices[url], request_id)
                if not skips_unusable:
                    raise error from None
                found[url] = error
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        for url, task in tasks.items():
            if url not in found:
                found[url] = task.result()
        return {index: found[url] for index, url in urls.items()}

    async def _fetch(
        self,
        url: Url,
        index: int,
        places: asyncio.Semaphore,
        share: MemoryShare,
        request_id: str,
        *,
        skips_unusable: bool,
    ) -> bytearray | ServiceError:
        """The document; or the error, where it is about the document and skipped.

        Raises: ServiceError with the document's index.
        """
        try:
            async with places:
                document = await self._follow_redirects(url, share)
        except FetchFailure as failure:
            error = self._failed(failure, url, index, request_id)
            if skips_unusable and is_of_document(error):
                return error
            raise error from failure
        except asyncio.CancelledError:
            self._on_fetched("cancelled")
            raise
        self._on_fetched("fetched")
        return document

    def _failed(self, failure: FetchFailure, url: Url, index: int, request_id: str) -> ServiceError:
        """The error for the client, once the failure is counted and logged."""
        self._on_fetched(failure.outcome)
        line = "a document of request %s was not fetched from %s: %s (%s)"
        logger.info(line, request_id, url.origin, failure.outcome, failure.reason)
        return failure.error.at(document_index=index, field="content")

    async def _follow_redirects(self, url: Url, share: MemoryShare) -> bytearray:
        """Raises: FetchFailure."""
        for _ in range(MAX_REDIRECTS + 1):
            found = await self._get(url, share)
            if isinstance(found, bytearray):
                return found
            url = found
        raise unreachable(url.host, f"is the end of {MAX_REDIRECTS} redirects, which is the limit, and redirects again")

    async def _get(self, url: Url, share: MemoryShare) -> bytearray | Url:
        """The document, or the URL that is to be fetched instead. Raises: FetchFailure."""
        async with self._places.connection(url.host):
            addresses = await self._addresses(url)
            async with self._connector.get(url, addresses) as answer:
                if answer.status in _REDIRECTS:
                    return self._redirect(url, answer)
                max_bytes = min(self._limits.max_file_bytes, self._limits.max_request_bytes)
                return await answer.read(max_bytes=max_bytes, take=share.take)

    async def _addresses(self, url: Url) -> Sequence[IpAddress]:
        """Of the host, all public. Raises: FetchFailure."""
        if url.address is not None:
            addresses: Sequence[IpAddress] = (url.address,)
        else:
            try:
                addresses = await self._resolve(url.host)
            except OSError as error:
                raise no_public_address(url.host, type(error).__name__) from error
        if refused := [address for address in addresses if not self._may_connect(address)]:
            raise no_public_address(url.host, f"the address {refused[0]}")
        if not addresses:
            raise no_public_address(url.host, "no address")
        return addresses

    def _redirect(self, url: Url, answer: Answer) -> Url:
        """Raises: FetchFailure."""
        location = answer.header("location")
        if location is None:
            raise unreachable(url.host, f"answered with the status {answer.status} and no location")
        try:
            target = follow(url, location)
        except UnusableDocumentError as error:
            raise refused_redirect(url.host, "a redirect to a URL that cannot be read") from error
        if not self._policy.allows(target):
            raise refused_redirect(url.host, f"a redirect to {target.origin}")
        return target


def _client_context(policy: UrlPolicy) -> ssl.SSLContext:
    """With the system's certificates, which take a while to read; with none where nothing is fetched."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if policy.is_off else httpcore2.default_ssl_context()
