"""Answers without the documents that are unusable, in every dialect, and answers blended with the first stage."""

import base64
import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from model import PageScores, PreparedRequest, Reranker, score_in_input_order
from service.dialects import DIALECTS
from service.errors import UnusableDocumentError
from service.http.skipped import SKIPPED_HEADER, skipped_headers
from tests.documents import make_encrypted_pdf, make_image, make_pdf, make_torn_pdf
from tests.patience import eventually
from tests.servers import RunningService, fake_loader, running_service
from tests.service.dialects.bodies import WIRES, Wire
from tests.service.http.requests import refused, rerank

SKIP = {"on_document_error": "skip"}
wires = pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def uri(data: bytes, media_type: str = "application/pdf") -> str:
    return f"data:{media_type};base64,{encoded(data)}"


LOCKED = uri(make_encrypted_pdf(password="x"))
STRINGS = ["ziprerank://nowhere", "harbour", LOCKED, "mirror", " "]
"""Of which the second and the fourth are usable."""


def score_the_last_best(batch: Sequence[PreparedRequest]) -> list[PageScores]:
    scored = []
    for scores, request in zip(score_in_input_order(batch), batch, strict=True):
        count = len(request.pages)
        logits = tuple(float(index - count) for index in range(count))
        scored.append(replace(scores, logits=logits, order=tuple(range(count))[::-1]))
    return scored


@pytest.fixture(scope="module")
def service(reranker: Reranker) -> Iterator[RunningService]:
    loader = fake_loader(reranker, score_the_last_best)
    with running_service(loader, max_pages=30, max_files=8, cors_origins="https://pages.test") as running:
        yield running


def post(service: RunningService, wire: Wire, documents: Any, **own: Any) -> httpx.Response:
    return service.client.post(wire.path, json={**wire.body("locks", documents), "ziprerank": own})


def validate(wire: Wire, answer: Any) -> None:
    [dialect] = [dialect for dialect in DIALECTS if dialect.name == wire.name]
    TypeAdapter(dialect.routes[0].answer).validate_python(answer, strict=True, extra="forbid")


# Skipping


@wires
def test_unusable_documents_come_last_and_the_header_names_them(service: RunningService, wire: Wire) -> None:
    response = post(service, wire, STRINGS, **SKIP)
    assert response.status_code == 200, response.text
    answer = response.json()
    validate(wire, answer)
    scores = wire.scores(answer)
    assert sorted(index for index, _ in scores) == [0, 1, 2, 3, 4]
    assert response.headers[SKIPPED_HEADER] == "0,2,4"
    if wire.is_sorted:
        assert [index for index, _ in scores] == [3, 1, 0, 2, 4]
    by_index = dict(scores)
    lowest = pytest.approx(0.001) if wire.name == "nim" else 0.0
    assert [by_index[index] for index in (0, 2, 4)] == [lowest] * 3
    assert by_index[3] > by_index[1] > by_index[0]


@wires
def test_without_the_option_the_first_unusable_document_fails_the_request(service: RunningService, wire: Wire) -> None:
    for own in ({}, {"on_document_error": "fail"}):
        response = post(service, wire, STRINGS, **own)
        assert (response.status_code, response.json()["code"]) == (404, "document_not_found")
        assert SKIPPED_HEADER not in response.headers
    assert SKIPPED_HEADER not in post(service, wire, ["harbour"], **SKIP).headers


@wires
def test_where_nothing_is_left_the_first_error_is_the_answer(service: RunningService, wire: Wire) -> None:
    response = post(service, wire, [LOCKED, "ziprerank://nowhere"], **SKIP)
    assert (response.status_code, response.json()["code"]) == (422, "encrypted_document")


@wires
def test_faults_of_the_request_fail_it_all_the_same(service: RunningService, wire: Wire) -> None:
    assert post(service, wire, ["harbour", 7], **SKIP).status_code == 400
    assert post(service, wire, ["harbour"], on_document_error="drop").status_code == 400
    too_many = post(service, wire, [uri(make_pdf(20)), uri(make_pdf(11)), " "], **SKIP)
    assert (too_many.status_code, too_many.json()["code"]) == (413, "too_many_pages")
    too_many = post(service, wire, [uri(make_image(), "image/png")] * 9, **SKIP)
    assert (too_many.status_code, too_many.json()["code"]) == (413, "too_many_files")


def test_errors_name_document_page_and_code_in_the_client_s_words(service: RunningService) -> None:
    documents = [
        {"pdf": encoded(make_torn_pdf()), "id": "torn"},
        {"pdf": LOCKED},
        {"image": "%"},
        {"text": "harbour"},
        {"pdf": encoded(make_pdf(2)), "pages": "2,5"},
        {"url": "https://example.org/a.pdf"},
    ]
    response = rerank(service, documents, route="/v1/rerank", ziprerank=SKIP, return_documents=True)
    assert response.status_code == 200, response.text
    body = response.json()
    assert [line["id"] for line in body["results"]] == ["document-4#page=2", "document-3", "torn#page=1"]
    errors = body["errors"]
    assert [(error["index"], error["page"], error["code"]) for error in errors] == [
        (0, 2, "bad_page_box"),
        (1, None, "encrypted_document"),
        (2, None, "invalid_base64"),
        (4, 5, "page_out_of_range"),
        (5, None, "url_not_supported"),
    ]
    assert errors[0]["message"].startswith("documents[0], page 2: ")
    assert errors[2]["message"].startswith("documents[2].image: ")
    assert errors[3]["message"] == "documents[4].pages: page 5 does not exist; the document has 2 page(s)."
    assert response.headers[SKIPPED_HEADER] == "0,1,2,4,5"


def test_errors_are_a_list_wherever_skipping_was_asked_for_and_absent_elsewhere(service: RunningService) -> None:
    assert rerank(service, ["harbour"], ziprerank=SKIP).json()["errors"] == []
    assert "errors" not in rerank(service, ["harbour"]).json()


def test_a_form_may_ask_for_skipping(service: RunningService) -> None:
    files = [("file", ("a.pdf", b"%PDF-1.7 bad")), ("file", ("b.png", make_image()))]
    response = service.client.post("/rerank", data={"query": "a", "ziprerank": json.dumps(SKIP)}, files=files)
    assert response.status_code == 200, response.text
    assert [line["id"] for line in response.json()["results"]] == ["b.png"]
    assert response.json()["errors"][0]["message"].startswith("documents[0]: ")


def test_usable_results_fill_top_n_first(service: RunningService) -> None:
    for count, expected in ((1, [3]), (2, [3, 1]), (4, [3, 1, 0, 2])):
        body = rerank(service, STRINGS, ziprerank=SKIP, top_n=count).json()
        assert [line["index"] for line in body["results"]] == expected
        assert len(body["errors"]) == 3


def test_logits_of_skipped_documents_are_finite_and_below_all_others(service: RunningService) -> None:
    body = rerank(service, STRINGS, ziprerank=SKIP, raw_scores=True).json()
    scores = [line["relevance_score"] for line in body["results"]]
    assert scores == [-1.0, -2.0, -12.0, -12.0, -12.0]


def test_skipped_documents_are_counted_by_code_and_in_the_log_line(
    service: RunningService, caplog: pytest.LogCaptureFixture
) -> None:
    def counted() -> float:
        return service.metric("ziprerank_skipped_documents_total", code="encrypted_document")

    before = counted()
    with caplog.at_level(logging.INFO, logger="service.http.exchange"):
        assert rerank(service, STRINGS, ziprerank=SKIP).status_code == 200
        eventually(lambda: any("skipped=3" in record.getMessage() for record in caplog.records))
    assert counted() == before + 1
    assert service.metric("ziprerank_skipped_documents_total", code="corrupt_image") == 0


def test_pages_of_the_web_may_read_the_header(service: RunningService) -> None:
    response = service.client.post(
        "/rerank",
        json={"query": "a", "documents": STRINGS, "ziprerank": SKIP},
        headers={"Origin": "https://pages.test"},
    )
    assert SKIPPED_HEADER in response.headers["access-control-expose-headers"]


def test_the_header_is_described_for_rerank_routes_alone(service: RunningService) -> None:
    paths = service.client.get("/openapi.json").json()["paths"]
    assert SKIPPED_HEADER in paths["/v1/rerank"]["post"]["responses"]["200"]["headers"]
    assert SKIPPED_HEADER not in paths["/documents"]["get"]["responses"]["200"]["headers"]


def test_the_header_has_a_bound() -> None:
    errors = [UnusableDocumentError("empty_text", "empty", document_index=index // 2) for index in range(400)]
    [value] = skipped_headers(errors).values()
    assert value.split(",")[:3] == ["0", "1", "2"] and value.endswith(",99,...")
    assert skipped_headers(errors[:4]) == {SKIPPED_HEADER: "0,1"}


# Blending


def found(*scores: float | None) -> list[dict[str, Any]]:
    """Documents of a search with these scores."""
    return [
        {"text": f"word{index}"} if score is None else {"text": f"word{index}", "first_stage_score": score}
        for index, score in enumerate(scores)
    ]


def results(response: httpx.Response) -> list[tuple[int, float]]:
    assert response.status_code == 200, response.text
    return [(line["index"], line["relevance_score"]) for line in response.json()["results"]]


@wires
def test_every_dialect_blends_by_the_order_of_its_list(service: RunningService, wire: Wire) -> None:
    texts = [f"word{index}" for index in range(4)]
    assert wire.order(post(service, wire, texts).json()) == [3, 2, 1, 0]
    response = post(service, wire, texts, blend=1)
    assert response.status_code == 200, response.text
    validate(wire, response.json())
    assert wire.order(response.json()) == [0, 1, 2, 3]
    scores = dict(wire.scores(response.json()))
    clip = 2e-3 if wire.name == "nim" else 1e-6
    assert scores == {index: pytest.approx(61 / (61 + index), abs=clip) for index in range(4)}


def test_scores_of_the_first_stage_are_blended_in_by_rank(service: RunningService) -> None:
    response = rerank(service, found(0.1, 0.9, 0.5), ziprerank={"blend": 0.9})
    assert [index for index, _ in results(response)] == [1, 2, 0]
    assert response.json()["meta"]["score"] == "blend"
    assert all(0 < score <= 1 for _, score in results(response))


def test_scores_of_the_first_stage_are_blended_in_by_score(service: RunningService) -> None:
    own = {"blend": 0.5, "blend_by": "score"}
    blended = results(rerank(service, found(30, 20, 10), ziprerank=own))
    assert [index for index, _ in blended] == [0, 2, 1]
    expected = [0.5 + 0.5 * math.exp(-2), 0.5, 0.25 + 0.5 * math.exp(-1)]
    assert [score for _, score in blended] == pytest.approx(expected)


def test_several_windows_blend_places(service: RunningService) -> None:
    own = {"blend": 0.5, "blend_by": "score"}
    response = rerank(service, found(*range(24)), ziprerank=own)
    assert response.json()["meta"]["windows"] > 1 and response.json()["meta"]["score"] == "blend"
    assert results(response)[0][1] <= 1.0


@wires
def test_a_document_without_a_score_is_named_where_scores_are_blended(service: RunningService, wire: Wire) -> None:
    response = post(service, wire, ["harbour", "mirror"], blend=0.5, blend_by="score")
    field = {"tei": "texts", "nim": "passages", "elastic": "input"}.get(wire.name, "documents")
    assert response.status_code == 400
    assert f"{field}[0].first_stage_score: it is missing" in response.text


def test_the_first_document_that_lacks_a_score_is_named(service: RunningService) -> None:
    own = {"blend": 0.5, "blend_by": "score"}
    body = refused(rerank(service, found(1, None, None), ziprerank=own), 400, "invalid_request", "documents[1]")
    assert body["document_index"] == 1


def test_places_are_those_of_the_list_where_some_scores_are_missing(service: RunningService) -> None:
    response = rerank(service, found(0.1, None, 0.5), ziprerank={"blend": 1})
    assert [index for index, _ in results(response)] == [0, 1, 2]
    assert "documents[1].first_stage_score is missing" in response.json()["meta"]["warnings"][0]


@pytest.mark.parametrize("fields", [{"raw_scores": True}, {"ziprerank": {"score": "softmax"}}], ids=str)
def test_another_kind_of_score_has_no_effect_beside_a_blend(service: RunningService, fields: Any) -> None:
    own = {**fields.pop("ziprerank", {}), "blend": 0.5}
    body = rerank(service, found(1, 2), ziprerank=own, **fields).json()
    assert body["meta"]["score"] == "blend"
    assert "ziprerank.score and raw_scores have no effect" in body["meta"]["warnings"][0]


def test_a_blend_of_nothing_changes_nothing(service: RunningService) -> None:
    plain = rerank(service, found(None, None, None)).json()
    scored = rerank(service, found(3, 2, 1), ziprerank={"blend": 0, "blend_by": "score"}).json()
    assert scored["results"] == plain["results"] and scored["meta"] == plain["meta"]


@pytest.mark.parametrize("blend", [-0.1, 1.1, "much"])
def test_a_weight_outside_of_0_to_1_is_refused(service: RunningService, blend: Any) -> None:
    refused(rerank(service, found(1), ziprerank={"blend": blend}), 400, "invalid_request", "ziprerank.blend")


def test_a_form_has_a_score_for_each_file(service: RunningService) -> None:
    def send(*scores: str) -> httpx.Response:
        files = [("file", (f"{name}.png", make_image(colour=name))) for name in ("red", "blue")]
        data = {"query": "a", "first_stage_score": list(scores), "ziprerank": json.dumps({"blend": 1})}
        return service.client.post("/rerank", data=data, files=files)

    assert [index for index, _ in results(send("0.9", "0.1"))] == [0, 1]
    assert [index for index, _ in results(send("0.1", "0.9"))] == [1, 0]
    for wrong in ("many", "nan", "inf"):
        refused(send("0.1", wrong), 400, "invalid_request", "first_stage_score", "file 1")
    refused(send("1", "2", "3"), 400, "invalid_request", "first_stage_score: 3 fields for 2 file parts")


def test_skipped_documents_are_last_in_a_blend_too(service: RunningService) -> None:
    documents = [{"text": " ", "first_stage_score": 9}, *found(1, 2)]
    response = rerank(service, documents, ziprerank={**SKIP, "blend": 0.5, "blend_by": "score"})
    assert results(response)[-1] == (0, 0.0) and len(results(response)) == 3
