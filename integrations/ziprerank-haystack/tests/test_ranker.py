"""The component against a live service, alone and in a pipeline."""

import asyncio
from typing import Any

import pytest
from haystack import Document, Pipeline
from haystack.dataclasses import ByteStream
from haystack.utils import Secret
from haystack_integrations.components.rankers.ziprerank import ZipRerankRanker
from ziprerank_client import ZipRerankError


def pages_of(service: Any, *numbers: int) -> list[Document]:
    return [Document(content="no text", meta={"ziprerank_id": service.document, "page": number}) for number in numbers]


def ranker(service: Any, **options: Any) -> ZipRerankRanker:
    return ZipRerankRanker(**{"base_url": service.url, "api_key": Secret.from_token(service.key), **options})


def test_registered_pages_are_ranked_as_pages(service: Any) -> None:
    given = pages_of(service, 1, 4, service.right_page, 9)
    ranked = ranker(service, top_k=3).run(query=service.query, documents=given, top_k=2)["documents"]
    assert len(ranked) == 2
    assert (ranked[0].id, ranked[0].score, ranked[0].meta) == (given[2].id, 1.0, given[2].meta)
    assert given[2].score is None


@pytest.mark.parametrize("form", ["blob", "meta"])
def test_an_image_is_ranked_beside_texts_on_the_event_loop(service: Any, form: str) -> None:
    blob = ByteStream(data=service.image, mime_type="image/jpeg")
    image = Document(blob=blob) if form == "blob" else Document(meta={"image": service.image})
    given = [*(Document(content=text) for text in service.texts[:2]), image]
    ranked = asyncio.run(ranker(service).run_async(query=service.query, documents=given))["documents"]
    assert [len(ranked), ranked[0].id] == [3, image.id]


def test_a_pipeline_is_written_and_read_without_the_key(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZIPRERANK_URL", service.url)
    monkeypatch.setenv("ZIPRERANK_KEY", service.key)
    pipeline = Pipeline()
    pipeline.add_component("ranker", ZipRerankRanker(top_k=1, keep_ratio=0.75))
    written = pipeline.dumps()
    assert service.key not in written and "keep_ratio: 0.75" in written
    given = pages_of(service, 1, service.right_page)
    answer = Pipeline.loads(written).run({"ranker": {"query": service.query, "documents": given}})
    assert [document.meta["page"] for document in answer["ranker"]["documents"]] == [service.right_page]


def test_skipped_documents_come_last_with_the_reason(service: Any) -> None:
    given = [Document(meta={"image": b"spoilt"}), *pages_of(service, 1)]
    ranked = ranker(service, on_document_error="skip").run(query=service.query, documents=given)["documents"]
    assert [document.id for document in ranked] == [given[1].id, given[0].id]
    assert "the document is plain text" in ranked[1].meta["ziprerank_error"]


def test_refusals_have_the_message_of_the_service(service: Any) -> None:
    with pytest.raises(ZipRerankError, match="page 999"):
        ranker(service).run(query=service.query, documents=pages_of(service, 999))
    with pytest.raises(RuntimeError, match="The API key is missing or wrong"):
        wrong = ranker(service, api_key=Secret.from_token("another"))
        asyncio.run(wrong.run_async(query=service.query, documents=pages_of(service, 1)))
