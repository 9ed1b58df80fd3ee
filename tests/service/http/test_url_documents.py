"""Documents from URLs through the whole service: off by default, and fetched from a site on loopback where it is listed."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from model import Reranker
from service.fetching.fetcher import FetchLimits, UrlFetcher
from service.urls.policy import UrlPolicy
from tests.documents import make_image, make_pdf
from tests.patience import PATIENCE_SECONDS, until
from tests.servers import RunningService, fake_loader, running_service
from tests.service.fetching.sites import LOOPBACK, Names, Site, is_the_sites, redirect, response, running_site
from tests.service.http.requests import refused, rerank

PDF, PNG = make_pdf(3), make_image()


def use_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have services resolve files.test to the sites on loopback; the rest of the fetcher is as it is."""

    def make(policy: UrlPolicy, limits: FetchLimits, *, on_fetched: Callable[[str], None]) -> UrlFetcher:
        names = Names(files_test=[[LOOPBACK]], inside_test=[["10.0.0.1"]])
        return UrlFetcher(policy, limits, on_fetched=on_fetched, resolve=names, may_connect=is_the_sites)

    monkeypatch.setattr("service.app.UrlFetcher", make)


def test_a_url_is_refused_unless_the_operator_lists_hosts(reranker: Reranker) -> None:
    documents: list[Any] = [
        {"url": "https://example.org/a.pdf"},
        {"image_url": {"url": "https://example.org/a.png"}},
        {"image": "https://example.org/a.png"},
        {"pdf": "https://example.org/a.pdf", "pages": "1"},
    ]
    with running_service(fake_loader(reranker)) as service:
        for document in documents:
            answer = rerank(service, [{"text": "locks"}, document])
            body = refused(answer, 422, "url_not_supported", "ZIPRERANK_URL_FETCH", "documents[1]")
            assert body["document_index"] == 1
        assert service.metric("ziprerank_rejections_total", reason="ssrf") == len(documents)


def test_documents_are_fetched_and_ranked(reranker: Reranker, monkeypatch: pytest.MonkeyPatch) -> None:
    use_sites(monkeypatch)

    async def scenario() -> None:
        async with running_site(
            {"/a.pdf": redirect("/b.pdf"), "/b.pdf": response(PDF), "/c.png": response(PNG)}
        ) as site:
            await asyncio.to_thread(rank_on, site)

    def rank_on(site: Site) -> None:
        root = f"http://files.test:{site.port}"
        documents = [{"url": f"{root}/a.pdf#pages=1-2"}, {"image_url": {"url": f"{root}/c.png"}}, f"{root}/b.pdf"]
        with running_service(fake_loader(reranker), url_fetch=f"http://files.test:{site.port}") as service:
            answer = rerank(service, documents, ziprerank={"include_timings": True})
            assert answer.status_code == 200, answer.text
            assert {result["index"] for result in answer.json()["results"]} == {0, 1, 2}
            assert answer.json()["ziprerank"]["timings_ms"]["fetch"] > 0
            assert service.metric("ziprerank_stage_duration_seconds_count", stage="fetch") == 1
            assert service.metric("ziprerank_url_fetches_total", outcome="fetched") == 3

    asyncio.run(scenario())


def test_refusals_name_the_document_and_nothing_inside(reranker: Reranker, monkeypatch: pytest.MonkeyPatch) -> None:
    use_sites(monkeypatch)
    with running_service(fake_loader(reranker), url_fetch="inside.test", max_concurrent_requests=1) as service:
        body = refused(rerank(service, ["a text", {"url": "https://inside.test/a?token=b"}]), 422, "url_unreachable")
        assert body["document_index"] == 1 and "10.0.0.1" not in str(body) and "token" not in str(body)
        refused(rerank(service, [{"url": "https://other.test/a"}]), 422, "url_refused", "https://other.test")
        assert service.metric("ziprerank_url_fetches_total", outcome="address") == 1
        assert service.metric("ziprerank_url_fetches_total", outcome="refused") == 1


def test_slow_hosts_leave_places_to_other_requests(reranker: Reranker, monkeypatch: pytest.MonkeyPatch) -> None:
    use_sites(monkeypatch)

    async def scenario() -> None:
        gate = asyncio.Event()

        async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await gate.wait()
            writer.write(response(PDF))

        async with running_site({"/slow": wait}) as site:
            url = f"http://files.test:{site.port}/slow"
            with running_service(
                fake_loader(reranker), url_fetch=f"http://files.test:{site.port}", url_fetch_requests=1
            ) as service:
                held = asyncio.create_task(asyncio.to_thread(rerank, service, [{"url": url}]))
                await until(lambda: site.open_connections == 1)
                overloaded = await asyncio.to_thread(rerank, service, [{"url": url}])
                refused(overloaded, 429, "overloaded")
                assert int(overloaded.headers["retry-after"]) > 0
                assert (await asyncio.to_thread(rerank, service, ["a text"])).status_code == 200
                gate.set()
                assert (await held).status_code == 200

    asyncio.run(scenario())


def test_a_client_that_goes_away_takes_its_connections_along(
    reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_sites(monkeypatch)

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def scenario() -> None:
        async with running_site({"/slow": wait}) as site:
            with running_service(fake_loader(reranker), url_fetch=f"http://files.test:{site.port}") as service:
                body = {"query": "locks", "documents": [{"url": f"http://files.test:{site.port}/slow"}]}
                async with httpx.AsyncClient(base_url=service.url, timeout=PATIENCE_SECONDS) as client:
                    request = asyncio.create_task(client.post("/rerank", json=body))
                    await until(lambda: site.open_connections == 1)
                    request.cancel()
                await until(lambda: site.open_connections == 0)
                await until(lambda: cancellations(service) == 1)

    def cancellations(service: RunningService) -> float:
        return service.metric("ziprerank_cancellations_total", stage="fetch")

    asyncio.run(scenario())
