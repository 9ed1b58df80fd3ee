"""The client against a live service."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest
from ziprerank_client import MetadataNames, Ranked, RerankClient, ZipRerankError, to_document

Item = tuple[str, dict[str, Any]]
NAMES = MetadataNames()


def document(item: Item) -> dict[str, str]:
    text, metadata = item
    return to_document(text, metadata, NAMES)


def pages_of(service: Any, *numbers: int) -> list[Item]:
    return [("no text", {"ziprerank_id": service.document, "page": number}) for number in numbers]


def test_metadata_that_names_a_page_wins_over_an_image_and_a_text() -> None:
    assert to_document("text", {"ziprerank_id": "a", "page": 3, "image": b"x"}, NAMES) == {"id": "a#page=3"}
    assert to_document("text", {"ziprerank_id": "a"}, NAMES) == {"id": "a"}
    assert to_document("text", {"page": 3}, NAMES) == {"text": "text"}


def test_names_and_the_first_number_can_be_others() -> None:
    names = MetadataNames(document_id="source", page="number", first_page=0)
    assert to_document("", {"source": "a", "number": "2"}, names) == {"id": "a#page=3"}
    with pytest.raises(ValueError, match="number: -1 is not a page; the first one is 0"):
        to_document("", {"source": "a", "number": -1}, names)


def test_an_image_is_bytes_or_a_file_or_an_address(tmp_path: Path) -> None:
    file = tmp_path / "page.png"
    file.write_bytes(b"pixels")
    encoded = {"image": base64.b64encode(b"pixels").decode()}
    for image in (b"pixels", bytearray(b"pixels"), file, str(file)):
        assert to_document("", {"image": image}, NAMES) == encoded
    for address in ("data:image/png;base64,AAAA", "https://example.org/a.png"):
        assert to_document("", {"image": address}, NAMES) == {"image": address}


@pytest.mark.parametrize("image", ["no/such/file.png", 7, "A" * 100_000])
def test_an_image_that_cannot_be_read_is_named_shortly(image: object) -> None:
    with pytest.raises(ValueError, match=r"^image: ") as raised:
        to_document("", {"image": image}, NAMES)
    assert len(str(raised.value)) < 400


def test_pages_images_and_texts_are_ranked_together(service: Any) -> None:
    client = RerankClient(base_url=service.url, api_key=service.key)
    items = [*pages_of(service, 1, 4), ("", {"image": service.image}), *((text, {}) for text in service.texts[:2])]
    ranking = client.rank(service.query, items, document)
    assert sorted(each.index for each in ranking) == [0, 1, 2, 3, 4]
    assert ranking[0] == Ranked(index=2, score=1.0, error=None)


def test_the_event_loop_gets_the_same_ranking(service: Any) -> None:
    client = RerankClient(base_url=service.url, api_key=service.key)
    items = pages_of(service, 1, 4, service.right_page)
    ranking = asyncio.run(client.arank(service.query, items, document, top_n=1))
    assert ranking == [Ranked(index=2, score=1.0, error=None)]


def test_options_and_the_affinity_of_one_document_are_sent(service: Any, relay: Any) -> None:
    client = RerankClient(
        base_url=relay.url,
        api_key=service.key,
        keep_ratio=0.5,
        timeout_ms=90_000,
        score="softmax",
        on_document_error="skip",
    )
    ranking = client.rank(service.query, pages_of(service, 1, service.right_page), document)
    assert sum(each.score for each in ranking) == pytest.approx(1)
    text_only: list[Item] = [("a text", {})]
    client.rank(service.query, [*pages_of(service, 1), *text_only], document)
    (headers, body), (other_headers, _) = relay.requests
    assert headers["x-ziprerank-affinity"] == service.document
    assert "x-ziprerank-affinity" not in other_headers
    assert body["documents"][0] == {"id": f"{service.document}#page=1"}
    assert body["ziprerank"] == {
        "keep_ratio": 0.5,
        "timeout_ms": 90_000,
        "results": "documents",
        "score": "softmax",
        "on_document_error": "skip",
    }


def test_skipped_documents_come_last_with_their_reasons(service: Any) -> None:
    client = RerankClient(base_url=service.url, api_key=service.key, on_document_error="skip")
    items: list[Item] = [
        ("", {"image": "no/such/file.png"}),
        ("", {"image": b"spoilt"}),
        *pages_of(service, 1, service.right_page),
    ]
    ranking = client.rank(service.query, items, document)
    assert [each.index for each in ranking] == [3, 2, 1, 0]
    assert [bool(each.error) for each in ranking] == [False, False, True, True]
    assert str(ranking[2].error).startswith("the document is plain text")
    assert str(ranking[3].error) == "image: no/such/file.png is not a file."


def test_an_unusable_document_fails_the_request_by_default(service: Any) -> None:
    client = RerankClient(base_url=service.url, api_key=service.key)
    with pytest.raises(ZipRerankError, match=r"documents\[0\]: image: no/such/file.png is not a file"):
        client.rank(service.query, [("", {"image": "no/such/file.png"})], document)
    with pytest.raises(ZipRerankError, match="page 999") as raised:
        client.rank(service.query, pages_of(service, 999), document)
    assert (raised.value.status, raised.value.code) == (400, "page_out_of_range")
    assert raised.value.request_id


def test_a_wrong_key_and_a_closed_port_are_said(service: Any) -> None:
    with pytest.raises(ZipRerankError, match="The API key is missing or wrong") as raised:
        RerankClient(base_url=service.url, api_key="another").rank(service.query, [("text", {})], document)
    assert raised.value.status == 401
    with pytest.raises(ZipRerankError, match=r"http://127\.0\.0\.1:9 cannot be reached") as raised:
        RerankClient(base_url="http://127.0.0.1:9").rank(service.query, [("text", {})], document)
    assert raised.value.status is None


def test_a_busy_service_is_asked_again(service: Any, relay: Any) -> None:
    items: list[Item] = [(text, {}) for text in service.texts]
    [best] = RerankClient(base_url=relay.url, api_key=service.key).rank("busy bank loan", items, document, top_n=1)
    assert best.index == 2
    assert len(relay.requests) == 2


def test_without_retries_a_busy_service_is_an_error(service: Any, relay: Any) -> None:
    client = RerankClient(base_url=relay.url, api_key=service.key, max_retries=0)
    with pytest.raises(ZipRerankError, match="The queue is full"):
        asyncio.run(client.arank("busy bank loan", [("text", {})], document))
    assert len(relay.requests) == 1


def test_no_documents_are_no_request() -> None:
    assert RerankClient(base_url="http://127.0.0.1:9").rank("query", [], document) == []
