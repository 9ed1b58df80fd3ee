"""What a client sees: answers in both request forms, and an answer of its own for everything that can be wrong."""

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from model import Reranker
from service.dialects.answers import RerankResponse
from tests.documents import make_encrypted_pdf, make_pdf
from tests.servers import RunningService, fake_loader, running_service
from tests.service.http.requests import refused, rerank

FIVE_PAGES = make_pdf(5)
ANSWER = TypeAdapter(RerankResponse)


@pytest.fixture(scope="module")
def service(reranker: Reranker) -> Iterator[RunningService]:
    limits: dict[str, Any] = {"max_body_bytes": 3_000_000, "max_file_bytes": 2_000_000, "max_files": 6, "max_pages": 40}
    with running_service(fake_loader(reranker), **limits, max_query_characters=300) as running:
        yield running


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def picture(mode: str = "RGB", size: tuple[int, int] = (64, 96), kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), 200, np.uint8)).convert(mode).save(stream, kind)
    return stream.getvalue()


def results(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    return list(fitting_its_schema(response.json())["results"])


def fitting_its_schema(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer, which has every required field of the published schema, and no field that is not in it."""
    as_published: object = ANSWER.validate_python(answer, extra="forbid")
    assert as_published == answer
    return answer


# Answers


def test_json_with_a_pdf_and_an_image(service: RunningService) -> None:
    documents = [{"pdf": encoded(FIVE_PAGES), "pages": "3,1-2", "id": "report.pdf"}, {"image": encoded(picture())}]
    answer = rerank(service, documents)
    assert [(r["index"], r["id"], r["page"]) for r in results(answer)] == [
        (0, "report.pdf#page=3", 3),
        (0, "report.pdf#page=1", 1),
        (0, "report.pdf#page=2", 2),
        (1, "document-1", None),
    ]
    body = answer.json()
    assert body["object"] == "rerank" and body["model"] == "fake"
    assert sum(r["relevance_score"] for r in body["results"]) == pytest.approx(1.0)
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] > 0
    assert body["meta"]["score"] == "softmax" and body["meta"]["warnings"] == []
    assert "ziprerank" not in body and "document" not in body["results"][0]


@pytest.mark.parametrize("options", [{}, {"return_documents": True, "ziprerank": {"include_timings": True}}], ids=repr)
def test_an_answer_has_the_fields_of_its_published_schema_and_no_others(
    service: RunningService, options: dict[str, Any]
) -> None:
    description = service.client.get("/openapi.json").json()
    answered = description["paths"]["/rerank"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert {"$ref": "#/components/schemas/RerankResponse"} in answered["anyOf"]
    response = rerank(service, [{"pdf": encoded(FIVE_PAGES), "pages": "1-2"}, {"image": encoded(picture())}], **options)
    assert len(results(response)) == 3
    assert set(response.json()["meta"]) == {"api_version", "billed_units", "tokens", "warnings", "score", "windows"}
    assert set(response.json().get("ziprerank", ())) == ({"timings_ms", "visual_tokens", "cache"} if options else set())


def test_multipart_with_files_fields_and_options(service: RunningService) -> None:
    response = service.client.post(
        "/v1/rerank",
        data={
            "query": "locks", "top_n": "2", "raw_scores": "true", "pages": ["2-3", ""], "id": ["", "photo"],
            "ziprerank": json.dumps({"keep_ratio": 0.25, "include_timings": True}),
        },
        files=[
            ("file", ("dir/report.pdf", make_pdf(5, width=500), "application/pdf")),
            ("file", ("photo.jpg", picture(kind="JPEG"), "image/jpeg")),
        ],
    )  # fmt: skip
    assert [(r["id"], r["relevance_score"]) for r in results(response)] == [
        ("report.pdf#page=2", 0.0),
        ("report.pdf#page=3", -1.0),
    ]
    group = response.json()["ziprerank"]
    assert {"parse", "render", "prepare", "queue", "respond", "total"} <= set(group["timings_ms"])
    assert 0 < group["visual_tokens"]["after"] < group["visual_tokens"]["before"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
def test_every_image_kind_is_a_page(service: RunningService, kind: str) -> None:
    response = service.client.post(
        "/rerank", data={"query": "a"}, files=[("file", (f"scan.{kind.lower()}", picture(kind=kind)))]
    )
    [result] = results(response)
    assert result["relevance_score"] == 1.0  # one page alone
    assert result["page"] is None and result["id"] == f"scan.{kind.lower()}"


def test_a_data_uri_is_read_like_base64(service: RunningService) -> None:
    documents = [
        {"image": f"data:image/png;base64,{encoded(picture())}"},
        {"pdf": f"data:application/pdf;base64,{encoded(FIVE_PAGES)}", "pages": "5"},
    ]
    assert [r["page"] for r in results(rerank(service, documents))] == [None, 5]


@pytest.mark.parametrize(("top_n", "count"), [(2, 2), (0, 5), (None, 5), (99, 5)])
def test_top_n_counts_pages(service: RunningService, top_n: int | None, count: int) -> None:
    assert len(results(rerank(service, [{"pdf": encoded(FIVE_PAGES)}], top_n=top_n))) == count


def test_documents_are_described_on_request_and_never_echoed(service: RunningService) -> None:
    documents = [{"pdf": encoded(FIVE_PAGES), "pages": "2", "id": "report.pdf", "metadata": {"a": [1]}}]
    response = rerank(service, documents, route="/v1/rerank", return_documents=True)
    [result] = results(response)
    assert result["document"]["text"] == result["id"] == "report.pdf#page=2" and result["document"]["page"] == 2
    assert len(result["document"]["sha256"]) == 64 and result["metadata"] == {"a": [1]}
    assert encoded(FIVE_PAGES)[:40] not in response.text
    [other] = results(rerank(service, documents, return_documents=True))  # LiteLLM cannot read documents of /rerank
    assert other["sha256"] == result["document"]["sha256"] and "document" not in other


@pytest.mark.parametrize("value", [2**64 - 1, -(2**63), "\u0000 é 🏠", None, 1.5, [[[{}]]]], ids=repr)
def test_metadata_comes_back_as_it_was_sent(service: RunningService, value: Any) -> None:
    document = {"image": encoded(picture()), "metadata": {"a": value}}
    for sent in (document, json.dumps(document)):
        [result] = results(rerank(service, [sent]))
        assert result["metadata"] == {"a": value}


def test_metadata_that_cannot_come_back_is_refused(service: RunningService) -> None:
    document = {"image": encoded(picture()), "metadata": [2**64]}
    for sent in (document, json.dumps(document)):
        refused(rerank(service, [sent]), 400, "invalid_request", "documents[0].metadata", "64 bits")


def test_metadata_that_would_swell_the_answer_are_refused(service: RunningService) -> None:
    document = {"image": encoded(picture()), "metadata": "x" * (64 * 1024 - 2)}
    assert rerank(service, [document]).json()["results"][0]["metadata"] == document["metadata"]
    document["metadata"] += "x"
    refused(rerank(service, [document]), 400, "invalid_request", "documents[0].metadata", "limit is 65536")


def test_unknown_fields_are_ignored_and_named(service: RunningService) -> None:
    response = rerank(service, [{"image": encoded(picture()), "colour": 1}], model="rerank-v3.5", max_chunks_per_doc=3)
    results(response)
    assert response.json()["meta"]["warnings"] == ["ignored fields: max_chunks_per_doc, documents[0].colour"]


def test_the_same_label_may_occur_twice(service: RunningService) -> None:
    documents = [{"image": encoded(picture()), "id": "a"}, {"image": encoded(picture("L")), "id": "a"}]
    assert [(r["index"], r["id"]) for r in results(rerank(service, documents))] == [(0, "a"), (1, "a")]


def test_a_window_without_a_stride_keeps_the_published_proportion(service: RunningService) -> None:
    answer = rerank(service, [{"pdf": encoded(FIVE_PAGES)}], ziprerank={"window_size": 4})
    assert answer.json()["meta"]["windows"] == 2
    assert sorted(r["page"] for r in results(answer)) == [1, 2, 3, 4, 5]


def test_a_clients_request_id_comes_back(service: RunningService) -> None:
    response = service.client.get("/livez", headers={"X-Request-Id": "trace-42"})
    assert response.headers["x-request-id"] == "trace-42"
    response = service.client.get("/livez", headers={"X-Request-Id": "not an id"})
    assert response.headers["x-request-id"].startswith("rerank-")


# Refusals


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b'{"query": "a\xff"}', b'{"query": "\\ud800"}'], ids=repr)
def test_a_body_that_is_not_json(service: RunningService, content: bytes) -> None:
    response = service.client.post("/rerank", content=content, headers={"content-type": "application/json"})
    refused(response, 400, "malformed_body")


def test_deeply_nested_json_is_refused_as_malformed_and_harms_nothing(service: RunningService) -> None:
    depth = 90_000
    for content in (b'{"query":' + b"[" * depth, b'{"query":' + b"[" * depth + b"]" * depth + b"}"):
        response = service.client.post("/rerank", content=content, headers={"content-type": "application/json"})
        refused(response, 400, "malformed_body")
    results(rerank(service, [{"image": encoded(picture())}]))


@pytest.mark.parametrize(
    ("fields", "mention"),
    [
        ({"documents": [{"image": "AAAA"}]}, "query"),
        ({"query": "", "documents": [{"image": "AAAA"}]}, "query"),
        ({"query": " \n", "documents": [{"image": "AAAA"}]}, "query"),
        ({"query": 7, "documents": [{"image": "AAAA"}]}, "query"),
        ({"query": "q" * 301, "documents": [{"image": "AAAA"}]}, "301 characters and the limit is 300"),
        ({"query": "a"}, "documents"),
        ({"query": "a", "documents": []}, "documents"),
        ({"query": "a", "documents": 7}, "documents"),
        ({"query": "a", "documents": [7]}, "documents[0]: send a string, or an object such as"),
        ({"query": "a", "documents": [{}]}, "exactly one of image, pdf, text and url"),
        ({"query": "a", "documents": [{"image": "AAAA", "pdf": "AAAA"}]}, "exactly one of image, pdf, text and url"),
        ({"query": "a", "texts": 7}, "texts"),
        ({"query": "a", "texts": [7]}, "texts[0]: send a string"),
        ({"query": "a", "input": {"documents": 7}}, "documents"),
        ({"query": "a", "documents": [{"image": "AAAA"}], "top_n": -1}, "top_n"),
        ({"query": "a", "documents": [{"image": "AAAA"}], "ziprerank": {"keep_ratio": 0}}, "ziprerank.keep_ratio"),
        ({"query": "a", "documents": [{"image": "AAAA"}], "ziprerank": {"keep_ratio": 1.5}}, "got 1.5"),
        ({"query": "a", "documents": [{"image": "AAAA"}], "ziprerank": {"window_size": 21}}, "window_size"),
        ({"query": "a", "documents": [{"image": "AAAA"}], "ziprerank": {"stride": 0}}, "stride"),
        ({"query": "a", "documents": [{"image": "AAAA"}], "ziprerank": {"window_size": 3, "stride": 4}}, "stride is 4"),
        ({"query": "a", "documents": [{"image": "AAAA"}], "ziprerank": {"keep_ration": 0.5}}, "keep_ration"),
        ({"query": "a", "documents": [{"pdf": "AAAA", "pages": "x"}]}, "pages"),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else "",
)
def test_a_request_outside_the_schema_names_the_field(
    service: RunningService, fields: dict[str, Any], mention: str
) -> None:
    response = service.client.post("/rerank", json=fields)
    if "texts" in fields:
        assert response.status_code == 400 and mention in response.json()["error"]
    else:
        refused(response, 400, "invalid_request", mention)


def test_many_wrong_items_cost_one_short_answer(service: RunningService) -> None:
    wrong_four_times = {"image": 7, "pdf": 7, "pages": 7, "id": 7}
    error = refused(rerank(service, [wrong_four_times] * 6), 400, "invalid_request", "documents[0].image", "got 7")
    assert error["message"].count("got 7") == 10 and error["message"].endswith("; and 14 more.")
    response = rerank(service, [7] * 150_000)
    refused(response, 413, "too_many_files", "150000", "limit is 40")
    images = [{"image": encoded(picture())}] * 7
    refused(rerank(service, images), 413, "too_many_files", "7 were sent and the limit is 6")
    assert len(response.content) < 8192


def test_a_long_wrong_name_is_quoted_shortened(service: RunningService) -> None:
    response = rerank(service, [{"image": encoded(picture())}], ziprerank={"x" * 10_000: 1})
    refused(response, 400, "invalid_request", "ziprerank.xxx", "x…")
    assert len(response.content) < 8192


@pytest.mark.parametrize("pages", ["0", "3-2", "6", "1,9-12", "99999999"])
def test_a_page_that_does_not_exist(service: RunningService, pages: str) -> None:
    body = refused(rerank(service, [{"pdf": encoded(FIVE_PAGES), "pages": pages}]), 400, "page_out_of_range")
    assert body["document_index"] == 0


@pytest.mark.parametrize(
    ("document", "status", "code"),
    [
        ({"image": encoded(b"just some text")}, 415, "unsupported_media_type"),
        ({"image": encoded(FIVE_PAGES)}, 415, "unsupported_media_type"),
        ({"pdf": encoded(picture())}, 415, "unsupported_media_type"),
        ({"pdf": encoded(b"<html>%PDF</html>")}, 415, "unsupported_media_type"),
        ({"image": ""}, 422, "corrupt_image"),
        ({"pdf": ""}, 422, "corrupt_document"),
        ({"image": "not base64!"}, 422, "invalid_base64"),
        ({"image": "AAAAA"}, 422, "invalid_base64"),
        ({"image": "https://example.org/page.png"}, 422, "url_not_supported"),
        ({"image": encoded(picture()[:60])}, 422, "corrupt_image"),
        ({"pdf": encoded(b"%PDF-1.7\nnothing that follows is a PDF")}, 422, "corrupt_document"),
        ({"image": encoded(picture(size=(1000, 2)))}, 422, "bad_page_box"),
    ],
)
def test_a_document_that_cannot_be_used(
    service: RunningService, document: dict[str, str], status: int, code: str
) -> None:
    body = refused(rerank(service, [{"image": encoded(picture())}, document]), status, code)
    assert body["document_index"] == 1
    assert "0x" not in body["message"] and "object at" not in body["message"]


def test_an_encrypted_pdf_says_so(service: RunningService) -> None:
    locked = make_encrypted_pdf(password="secret")
    refused(rerank(service, [{"pdf": encoded(locked)}]), 422, "encrypted_document", "documents[0]")


def test_limits_name_the_value_and_the_limit(service: RunningService) -> None:
    image = encoded(picture())
    refused(rerank(service, [{"image": image}] * 7), 413, "too_many_files", "7 were sent", "limit is 6")
    refused(rerank(service, [{"pdf": encoded(make_pdf(41))}]), 413, "too_many_pages", "41", "40")
    refused(rerank(service, [{"image": encoded(b"x" * 2_000_001)}]), 413, "file_too_large", "2000001", "2000000")
    refused(rerank(service, [{"image": "A" * 3_000_000}]), 413, "body_too_large", "3000000")


def test_a_client_that_closes_after_the_answer_still_reads_why_it_was_refused(service: RunningService) -> None:
    headers = {"content-type": "application/json", "connection": "close"}
    response = httpx.post(f"{service.url}/rerank", content=b" " * 20_000_000, headers=headers)
    refused(response, 413, "body_too_large")


def test_a_chunked_body_above_the_limit_is_refused_while_it_arrives(service: RunningService) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(60):
            yield b" " * 65536

    response = service.client.post("/rerank", content=chunks(), headers={"content-type": "application/json"})
    refused(response, 413, "body_too_large")


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": ""},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
def test_another_content_type_is_refused(service: RunningService, headers: dict[str, str]) -> None:
    response = service.client.post("/rerank", content=b"{}", headers=headers)
    refused(response, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"--x\r\n", "multipart/form-data"),
        (b"no boundary here", "multipart/form-data; boundary=x"),
        (b'--x\r\nContent-Disposition: form-data; name="query"\r\n\r\nlocks', "multipart/form-data; boundary=x"),
        (b"--x\r\nContent-Type: text/plain\r\n\r\nlocks\r\n--x--\r\n", "multipart/form-data; boundary=x"),
        (
            b'--x\r\nContent-Disposition: form-data; name="query"\r\n\r\n\xff\r\n'
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.pdf"\r\n\r\n%PDF-\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
        ),
    ],
    ids=["no-boundary", "no-parts", "cut-off", "no-name", "not-utf8"],
)
def test_a_malformed_multipart_body(service: RunningService, content: bytes, content_type: str) -> None:
    response = service.client.post("/rerank", content=content, headers={"content-type": content_type})
    refused(response, 400, "malformed_multipart")


def test_multipart_without_a_file_is_a_request_without_documents(service: RunningService) -> None:
    response = service.client.post("/rerank", files={"query": (None, "locks")})
    refused(response, 400, "invalid_request", "file")


def test_an_empty_file_part_is_an_unreadable_document(service: RunningService) -> None:
    response = service.client.post("/rerank", data={"query": "a"}, files=[("file", ("a.pdf", b"", "application/pdf"))])
    refused(response, 422, "corrupt_document")


def test_unknown_routes_and_methods_have_the_one_body(service: RunningService) -> None:
    refused(service.client.get("/nowhere"), 404, "not_found")
    refused(service.client.get("/rerank"), 405, "method_not_allowed")
