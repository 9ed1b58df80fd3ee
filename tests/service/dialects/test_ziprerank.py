"""The service's own format without a socket: bodies to queries, answers and errors to bodies."""

import json
from dataclasses import replace
from typing import Any

import pytest
from pydantic import TypeAdapter

from service.degraded_reason import DegradedReason
from service.dialects.answers import RerankResponse
from service.dialects.body import RequestBody
from service.dialects.dialect import RequestHead
from service.dialects.error_bodies import ErrorBody
from service.dialects.ziprerank import ZipRerankDialect
from service.errors import (
    DocumentNotFoundError,
    InvalidRequestError,
    OverloadedError,
    PageOutOfRangeError,
    ServiceError,
    UnusableDocumentError,
)
from service.records import (
    DocumentReference,
    RankedPage,
    RankOptions,
    RerankAnswer,
    RerankQuery,
    TextDocument,
    TokenCounts,
    Upload,
)

ZIPRERANK = ZipRerankDialect()
ANSWER = RerankAnswer(
    request_id="r-1",
    created=1_700_000_000,
    model="demo",
    pages=(
        RankedPage(
            document_index=1,
            label="b#page=2",
            number=2,
            score=0.75,
            logit=3.0,
            degraded_reasons=(DegradedReason.IMAGE,),
            document_sha256="bb",
        ),
        RankedPage(
            document_index=0, label="a", number=None, score=0.25, logit=-1.5, degraded_reasons=(), document_sha256="aa"
        ),
    ),
    score_kind="softmax",
    windows=1,
    tokens=TokenCounts(window_pages=2, cached_pages=1, visual_tokens=100, kept_tokens=25, prompt_tokens=60),
    stage_seconds={"queue": 0.0012345},
    total_seconds=0.5,
)
QUERY = RerankQuery(
    text="q",
    documents=(
        Upload(name="documents[0].image", content="", kind="image", pages=None, label="a"),
        Upload(name="documents[1].pdf", content="", kind="pdf", pages=None, label="b"),
    ),
)


def read(body: dict[str, Any], *, path_id: str | None = None, max_documents: int = 10) -> RerankQuery:
    head = RequestHead(path="/v1/rerank", path_id=path_id, max_documents=max_documents, max_uploads=max_documents)
    return ZIPRERANK.read(RequestBody([json.dumps(body).encode()], content_type="application/json"), head)


def read_form(parts: list[tuple[str, str | None, bytes]], *, path_id: str | None = None) -> RerankQuery:
    """parts: name, file name (None: a field) and content."""
    lines: list[bytes] = []
    for name, file_name, content in parts:
        disposition = f'form-data; name="{name}"' + (f'; filename="{file_name}"' if file_name is not None else "")
        lines.append(f"--x\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n")
    head = RequestHead(path="/v1/rerank", path_id=path_id, max_documents=10, max_uploads=10)
    return ZIPRERANK.read(RequestBody([*lines, b"--x--\r\n"], content_type="multipart/form-data; boundary=x"), head)


def test_json_becomes_a_query() -> None:
    query = read(
        {
            "query": "locks",
            "documents": [{"pdf": "AAAA", "pages": "1-3"}, {"image": "BBBB", "id": "x"}, {"id": "report#page=7"}],
            "top_n": 2,
            "raw_scores": True,
            "return_documents": True,
            "user": "someone",
            "ziprerank": {"keep_ratio": 0.5, "window_size": 8, "include_timings": True},
        }
    )
    assert query == RerankQuery(
        text="locks",
        documents=(
            Upload(name="documents[0].pdf", content="AAAA", kind="pdf", pages="1-3", label="document-0"),
            Upload(name="documents[1].image", content="BBBB", kind="image", pages=None, label="x"),
            DocumentReference(name="documents[2].id", id="report", pages="7"),
        ),
        options=RankOptions(keep_ratio=0.5, window_size=8),
        max_results=2,
        score="logit",
        document_detail="text",
        wants_timings=True,
        warnings=("ignored fields: user",),
    )


def test_a_form_becomes_the_same_kind_of_query() -> None:
    query = read_form(
        [("query", None, b"locks"), ("file", "a/report.pdf", b"%PDF"), ("pages", None, b"2"), ("top_n", None, b"")]
    )
    [upload] = query.documents
    assert isinstance(upload, Upload)
    assert (upload.name, upload.content, upload.kind) == ("file[0]", bytearray(b"%PDF"), None)
    assert (upload.pages, upload.label, query.text, query.max_results) == ("2", "report.pdf", "locks", None)


def test_no_results_asked_for_means_all() -> None:
    assert read({"query": "q", "documents": [{"image": "A"}], "top_n": 0}).max_results is None


def test_the_document_of_the_path_is_ranked_where_the_body_has_none() -> None:
    expected = (DocumentReference(name="id", id="report", pages="2-"),)
    assert read({"query": "q", "pages": "2-"}, path_id="report").documents == expected
    assert read_form([("query", None, b"q"), ("pages", None, b"2-")], path_id="report").documents == expected


def test_the_bound_of_documents_holds_in_both_forms() -> None:
    with pytest.raises(ServiceError, match="3 were sent and the limit is 2"):
        read({"query": "q", "documents": [{"image": "A"}] * 3}, max_documents=2)
    with pytest.raises(ServiceError, match="11 were sent and the limit is 10"):
        read_form([("query", None, b"q"), *[("file", "a.png", b"x")] * 11])


def test_an_answer_fits_the_type_that_the_api_description_is_made_of() -> None:
    everything = replace(QUERY, document_detail="text", wants_timings=True, metadata={0: {"a": 1}})
    for query in (QUERY, everything, replace(everything, score="logit", document_detail="hash")):
        body = ZIPRERANK.write(query, ANSWER)
        TypeAdapter(RerankResponse).validate_python(body, strict=True, extra="forbid")


def test_results_are_the_best_pages_with_their_scores() -> None:
    body = ZIPRERANK.write(replace(QUERY, max_results=1), ANSWER)
    assert body["results"] == [
        {
            "index": 1,
            "id": "b#page=2",
            "page": 2,
            "relevance_score": 0.75,
            "degraded": True,
            "degraded_reasons": ["image"],
        }
    ]
    assert body["meta"]["score"] == "softmax" and "ziprerank" not in body


def test_logits_are_shown_where_they_compare() -> None:
    asking = replace(QUERY, score="logit")
    body = ZIPRERANK.write(asking, ANSWER)
    assert [result["relevance_score"] for result in body["results"]] == [3.0, -1.5]
    assert (body["meta"]["score"], body["meta"]["warnings"]) == ("logit", [])
    several = replace(
        ANSWER, score_kind="rank", windows=3, pages=tuple(replace(page, logit=None) for page in ANSWER.pages)
    )
    body = ZIPRERANK.write(asking, several)
    assert [result["relevance_score"] for result in body["results"]] == [1.0, 0.5]
    assert body["meta"]["score"] == "rank" and "rank and not logit" in body["meta"]["warnings"][0]


def test_measurements_are_in_milliseconds() -> None:
    body = ZIPRERANK.write(replace(QUERY, wants_timings=True), ANSWER)
    assert body["ziprerank"] == {
        "timings_ms": {"queue": 1.234, "total": 500.0},
        "visual_tokens": {"before": 100, "after": 25},
        "cache": {"hits": 1, "misses": 1},
    }


@pytest.mark.parametrize(
    ("error", "message", "param"),
    [
        (InvalidRequestError("invalid_request", "it is empty.", field="query"), "query: it is empty.", "query"),
        (
            InvalidRequestError("invalid_request", "stride is 9.", field="options"),
            "ziprerank: stride is 9.",
            "ziprerank",
        ),
        (
            UnusableDocumentError("invalid_base64", "not base64.", field="content", document_index=1),
            "documents[1].pdf: not base64.",
            "documents[1].pdf",
        ),
        (
            UnusableDocumentError("page_unreadable", "unreadable.", document_index=1, page=4),
            "documents[1], page 4: unreadable.",
            None,
        ),
        (
            PageOutOfRangeError("page_out_of_range", "page 9 is missing.", field="pages", document_index=0),
            "documents[0].pages: page 9 is missing.",
            "pages",
        ),
        (DocumentNotFoundError("document_not_found", "No 'x'.", field="id", document_index=0), "No 'x'.", "id"),
        (OverloadedError("overloaded", "Full."), "Full.", None),
    ],
    ids=lambda value: value.code if isinstance(value, ServiceError) else "",
)
def test_errors_name_their_place_as_the_client_did(error: ServiceError, message: str, param: str | None) -> None:
    body = ZIPRERANK.error(error, request_id="r-1", query=QUERY)
    assert (body["message"], body["error"]["param"]) == (message, param)
    assert (body["document_index"], body["page"]) == (error.document_index, error.page)
    TypeAdapter(ErrorBody).validate_python(body, strict=True, extra="forbid")


def test_an_error_before_the_query_was_read_has_a_body_too() -> None:
    error = UnusableDocumentError("invalid_base64", "not base64.", field="content", document_index=1)
    assert ZIPRERANK.error(error, request_id="r", query=None)["message"] == "documents[1]: not base64."


def test_a_string_document_yields_its_best_page_alone() -> None:
    query = read({"query": "q", "documents": ["ziprerank://report#page=2", {"id": "other"}]})
    assert query.documents == (
        DocumentReference(name="documents[0]", id="report", pages="2", yields_one=True),
        DocumentReference(name="documents[1].id", id="other", pages=None),
    )
    first, second = ANSWER.pages
    answer = replace(ANSWER, pages=(second, first, replace(second, number=9), replace(first, number=9)))
    shown = ZIPRERANK.write(query, answer)["results"]
    assert [(result["index"], result["page"]) for result in shown] == [(0, None), (1, 2), (1, 9)]
    assert len(ZIPRERANK.write(replace(query, max_results=2), answer)["results"]) == 2


@pytest.mark.parametrize("sent", [{"text": "locks"}, {"content": [{"type": "text", "text": "locks"}]}])
def test_a_query_may_be_an_object_of_text(sent: Any) -> None:
    assert read({"query": sent, "documents": [{"image": "A"}]}).text == "locks"


def test_a_single_document_needs_no_list() -> None:
    assert len(read({"query": "q", "documents": "ziprerank://a"}).documents) == 1
    assert len(read({"query": "q", "documents": {"image": "A"}}).documents) == 1


def test_an_image_in_a_query_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="text parts only"):
        read({"query": {"content": [{"type": "image_url", "image_url": {"url": "data:"}}]}, "documents": [{"id": "a"}]})


def test_the_internal_form_of_a_document_cannot_be_sent() -> None:
    query = read({"query": "q", "documents": [{"image": "A", "form": {"is_string": True}}]})
    assert not query.documents[0].yields_one


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ('{"keep_ratio":\nNaN}', "The field ziprerank is not valid JSON: NaN is no JSON; .* in line 2 column 1"),
        ('{"score": "rank", "score": "logit"}', "score: a JSON object has this member twice"),
        ("[1]", "ziprerank: send an object"),
        (json.dumps(dict.fromkeys(map(str, range(101)), 1)), "101 options were sent"),
    ],
)
def test_options_in_a_form_are_held_to_the_rules_of_a_body(options: str, message: str) -> None:
    with pytest.raises(ServiceError, match=message):
        read_form([("query", None, b"q"), ("ziprerank", None, options.encode()), ("file", "a.png", b"x")])


def test_a_field_that_is_named_twice_is_in_the_text_once() -> None:
    (document,) = read({"query": "q", "documents": [{"a": "x", "b": "y"}], "rank_fields": ["a", "b", "a"]}).documents
    assert isinstance(document, TextDocument) and document.text == "x\ny"
    with pytest.raises(InvalidRequestError, match="100"):
        read({"query": "q", "documents": [{"a": "x"}], "rank_fields": ["a"] * 101})
