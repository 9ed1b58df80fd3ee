"""The compressor against a live service."""

import asyncio
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.exceptions import LangChainException, ModelAuthenticationError, ModelInvalidRequestError
from langchain_ziprerank import ZipRerankCompressor


def pages_of(service: Any, *numbers: int) -> list[Document]:
    return [
        Document(
            page_content="no text", id=f"page-{number}", metadata={"ziprerank_id": service.document, "page": number}
        )
        for number in numbers
    ]


def compressor(service: Any, **options: Any) -> ZipRerankCompressor:
    return ZipRerankCompressor(**{"base_url": service.url, "api_key": service.key, **options})


def test_registered_pages_are_ranked_as_pages(service: Any) -> None:
    given = pages_of(service, 1, 4, service.right_page, 9)
    ranked = compressor(service, top_n=2).compress_documents(given, service.query)
    assert len(ranked) == 2
    assert ranked[0].id == f"page-{service.right_page}"
    assert ranked[0].metadata == {**given[2].metadata, "relevance_score": 1.0}
    assert "relevance_score" not in given[2].metadata


def test_an_image_is_ranked_beside_texts_on_the_event_loop(service: Any) -> None:
    given = [
        *(Document(page_content=text) for text in service.texts[:2]),
        Document(page_content="", metadata={"scan": service.image}),
    ]
    ranked = asyncio.run(compressor(service, image_field="scan").acompress_documents(given, service.query))
    assert len(ranked) == 3
    assert ranked[0].metadata["scan"] == service.image


def test_pages_may_count_from_zero(service: Any) -> None:
    given = pages_of(service, 0, service.right_page - 1)
    ranked = compressor(service, first_page=0).compress_documents(given, service.query)
    assert ranked[0].metadata["page"] == service.right_page - 1


def test_url_and_key_are_those_of_the_environment(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZIPRERANK_URL", service.url)
    monkeypatch.setenv("ZIPRERANK_KEY", service.key)
    ranker = ZipRerankCompressor()
    [best, *_] = ranker.compress_documents(pages_of(service, 1, service.right_page), service.query)
    assert best.metadata["page"] == service.right_page
    assert service.key not in repr(ranker)


def test_skipped_documents_come_last_with_the_reason(service: Any) -> None:
    given = [Document(page_content="", metadata={"image": b"spoilt"}), *pages_of(service, service.right_page)]
    ranked = compressor(service, on_document_error="skip").compress_documents(given, service.query)
    assert "the document is plain text" in ranked[1].metadata["ziprerank_error"]


def test_refusals_are_errors_of_langchain(service: Any) -> None:
    with pytest.raises(ModelInvalidRequestError, match="page 999"):
        compressor(service).compress_documents(pages_of(service, 999), service.query)
    with pytest.raises(ModelAuthenticationError, match="The API key is missing or wrong"):
        asyncio.run(compressor(service, api_key="another").acompress_documents(pages_of(service, 1), service.query))
    with pytest.raises(LangChainException, match="cannot be reached"):
        compressor(service, base_url="http://127.0.0.1:9").compress_documents(pages_of(service, 1), service.query)
