"""Several documents and several requests: places, connections, bytes in memory, and the document that an error is about."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from service.errors import OverloadedError, ServiceError, TooLargeError, UnusableDocumentError
from service.fetching.places import CONNECTIONS_OF_REQUEST, CONNECTIONS_TO_HOST
from tests.documents import make_image, make_pdf
from tests.patience import until
from tests.service.fetching.sites import LOOPBACK, Answer, Names, bytes_of, fetch, make_fetcher, response, running_site

PDF, PNG = make_pdf(1), make_image()


class Gate:
    """An answer that waits until the gate is opened."""

    def __init__(self, body: bytes = PDF) -> None:
        self.waiting = 0
        self.most_waiting = 0
        self._body = body
        self._is_open = asyncio.Event()

    def open(self) -> None:
        self._is_open.set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        await self._is_open.wait()
        self.waiting -= 1
        writer.write(response(self._body))
        await writer.drain()


def names_of_hosts(count: int) -> Names:
    return Names(**{f"host{number}_test": [[LOOPBACK]] for number in range(count)})


def policy(port: int) -> str:
    return ",".join(f"http://{host}.test:{port}" for host in ("files", "host0", "host1"))


def test_documents_come_by_their_index_and_a_url_is_fetched_once() -> None:
    async def scenario() -> None:
        async with running_site({"/a": response(PDF), "/b": response(PNG)}) as site:
            outcomes: list[str] = []
            fetcher = make_fetcher(policy(site.port), outcomes=outcomes)
            root = f"http://files.test:{site.port}"
            async with fetcher.fetched(
                {1: f"{root}/a", 4: f"{root}/b", 7: f"HTTP://Files.test:{site.port}/a"}, request_id="r"
            ) as documents:
                assert {index: bytes_of(data) for index, data in documents.items()} == {1: PDF, 4: PNG, 7: PDF}
                assert fetcher.held_bytes == len(PDF) + len(PNG) and fetcher.requests == 0
            assert fetcher.held_bytes == 0
            assert sorted(site.paths) == ["/a", "/b"] and outcomes == ["fetched", "fetched"]

    asyncio.run(scenario())


def test_an_error_has_the_index_of_its_document_and_ends_the_other_fetches() -> None:
    async def scenario() -> None:
        gate = Gate()
        async with running_site({"/slow": gate, "/none": response(b"", status="404 Not Found")}) as site:
            fetcher = make_fetcher(policy(site.port))
            root = f"http://files.test:{site.port}"
            with pytest.raises(UnusableDocumentError) as caught:
                await fetch(fetcher, f"{root}/slow", f"{root}/none", f"{root}/slow", f"{root}/none")
            assert (caught.value.document_index, caught.value.field) == (1, "content")
            assert (fetcher.requests, fetcher.held_bytes) == (0, 0)
            gate.open()
            await until(lambda: site.open_connections == 0)

    asyncio.run(scenario())


def test_the_time_of_a_request_is_for_all_of_its_documents() -> None:
    async def scenario() -> None:
        gate = Gate()
        slow: Mapping[str, Answer] = {f"/{number}": gate for number in range(CONNECTIONS_OF_REQUEST + 1)}
        async with running_site(slow) as site:
            outcomes: list[str] = []
            fetcher = make_fetcher(policy(site.port), seconds=0.2, outcomes=outcomes)
            root = f"http://files.test:{site.port}"
            with pytest.raises(UnusableDocumentError) as caught:
                await fetch(fetcher, *(f"{root}{path}" for path in slow))
            assert (caught.value.code, caught.value.document_index) == ("url_timeout", 0)
            assert outcomes.count("timeout") == 1
            gate.open()

    asyncio.run(scenario())


def test_a_slow_host_takes_no_more_than_half_of_the_places() -> None:
    async def scenario() -> None:
        gate = Gate()
        async with running_site({"/slow": gate, "/a": response(PDF)}) as site:
            fetcher = make_fetcher(policy(site.port), names_of_hosts(2), max_requests=4)
            slow, other = f"http://host0.test:{site.port}/slow", f"http://host1.test:{site.port}"
            held = [asyncio.create_task(fetch(fetcher, slow)) for _ in range(2)]
            await until(lambda: gate.waiting == 2)
            with pytest.raises(OverloadedError) as caught:
                await fetch(fetcher, f"{other}/a", slow)
            assert (
                caught.value.status == 429 and caught.value.retry_after_seconds and "host0.test" in caught.value.message
            )
            assert await fetch(fetcher, f"{other}/a") == [PDF]
            held += [asyncio.create_task(fetch(fetcher, f"{other}/slow")) for _ in range(2)]
            await until(lambda: gate.waiting == 4)
            with pytest.raises(OverloadedError, match="4 requests"):
                await fetch(fetcher, f"http://files.test:{site.port}/a")
            gate.open()
            assert await asyncio.gather(*held) == [[PDF]] * 4
            assert fetcher.requests == 0
            assert await fetch(fetcher, f"{other}/a", slow) == [PDF, PDF]

    asyncio.run(scenario())


def test_a_service_of_one_place_gives_it_out() -> None:
    async def scenario() -> None:
        async with running_site({"/a": response(PDF)}) as site:
            fetcher = make_fetcher(policy(site.port), max_requests=1)
            for _ in range(2):
                assert await fetch(fetcher, f"http://files.test:{site.port}/a") == [PDF]

    asyncio.run(scenario())


def test_a_request_and_a_host_have_a_few_connections_at_once() -> None:
    async def scenario() -> None:
        gate = Gate()
        answers: Mapping[str, Answer] = {f"/{number}": gate for number in range(CONNECTIONS_TO_HOST)}
        async with running_site(answers) as site:
            fetcher = make_fetcher(policy(site.port))
            urls = [f"http://files.test:{site.port}{path}" for path in answers]
            tasks = [asyncio.create_task(fetch(fetcher, *urls))]
            await until(lambda: gate.waiting == CONNECTIONS_OF_REQUEST)
            tasks += [asyncio.create_task(fetch(fetcher, *urls)) for _ in range(3)]
            await until(lambda: gate.waiting == CONNECTIONS_TO_HOST)
            gate.open()
            assert await asyncio.gather(*tasks) == [[PDF] * len(urls)] * 4
            assert gate.most_waiting == CONNECTIONS_TO_HOST

    asyncio.run(scenario())


@pytest.mark.parametrize(("limit", "kind"), [("max_request_bytes", TooLargeError), ("max_held_bytes", OverloadedError)])
def test_the_bytes_of_a_request_and_of_all_requests_are_limited(limit: str, kind: type[ServiceError]) -> None:
    async def scenario() -> None:
        async with running_site({"/a": response(PDF), "/b": response(PDF)}) as site:
            limits: dict[str, Any] = {limit: len(PDF) + 100}
            fetcher = make_fetcher(policy(site.port), **limits)
            root = f"http://files.test:{site.port}"
            with pytest.raises(kind) as caught:
                await fetch(fetcher, f"{root}/a", f"{root}/b")
            assert caught.value.document_index in (0, 1) and fetcher.held_bytes == 0
            assert await fetch(fetcher, f"{root}/a", f"{root}/a") == [PDF, PDF]

    asyncio.run(scenario())


def test_documents_count_until_their_request_has_loaded_them() -> None:
    async def scenario() -> None:
        async with running_site({"/a": response(PDF)}) as site:
            fetcher = make_fetcher(policy(site.port), max_held_bytes=2 * len(PDF) - 1)
            url = f"http://files.test:{site.port}/a"
            async with fetcher.fetched({0: url}, request_id="r"):
                with pytest.raises(OverloadedError):
                    await fetch(fetcher, url)
            assert await fetch(fetcher, url) == [PDF]

    asyncio.run(scenario())


def test_documents_that_cannot_be_fetched_are_errors_in_their_places_where_they_are_skipped() -> None:
    async def scenario() -> None:
        gate = Gate()
        async with running_site(
            {"/a": response(PDF), "/slow": gate, "/none": response(b"", status="404 Not Found")}
        ) as site:
            fetcher = make_fetcher(policy(site.port), seconds=0.5)
            root = f"http://files.test:{site.port}"
            urls = {0: f"{root}/none", 2: f"{root}/a", 3: "https://other.test/", 5: f"{root}/slow", 6: f"{root}/slow"}
            async with fetcher.fetched(urls, request_id="r", skips_unusable=True) as documents:
                assert bytes_of(documents[2]) == PDF
                codes = {index: found.code for index, found in documents.items() if isinstance(found, ServiceError)}
                assert codes == {0: "url_unreachable", 3: "url_refused", 5: "url_timeout", 6: "url_timeout"}
            gate.open()

    asyncio.run(scenario())


def test_a_full_fetcher_is_never_skipped() -> None:
    async def scenario() -> None:
        async with running_site({"/a": response(PDF)}) as site:
            fetcher = make_fetcher(policy(site.port), max_held_bytes=len(PDF) - 1)
            url = f"http://files.test:{site.port}/a"
            with pytest.raises(OverloadedError):
                async with fetcher.fetched({0: url}, request_id="r", skips_unusable=True):
                    pass

    asyncio.run(scenario())
