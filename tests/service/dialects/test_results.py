"""The results of an answer: documents that were skipped, and blended scores."""

import math
from dataclasses import replace

import pytest

from service.dialects.results import results_of
from service.errors import ServiceError, UnusableDocumentError
from service.records import (
    DocumentReference,
    RankedPage,
    RerankAnswer,
    RerankQuery,
    ScoreKind,
    TextDocument,
    TokenCounts,
)

QUERY = RerankQuery(
    text="q",
    documents=(
        TextDocument(name="documents[0]", text="one", label="document-0", yields_one=True),
        TextDocument(name="documents[1]", text=" ", label="document-1", yields_one=True),
        TextDocument(name="documents[2]", text="two", label="document-2", yields_one=True),
        DocumentReference(name="documents[3]", id="gone", pages=None, yields_one=True),
    ),
    skips_unusable=True,
)


def skip(index: int, page: int | None = None) -> ServiceError:
    return UnusableDocumentError("empty_text", "it is empty.", document_index=index, page=page)


def ranked(index: int, logit: float | None, score: float) -> RankedPage:
    return RankedPage(
        document_index=index,
        label=f"document-{index}",
        number=None,
        score=score,
        logit=logit,
        degraded_reasons=(),
        document_sha256="aa",
    )


ANSWER = RerankAnswer(
    request_id="r",
    created=1,
    model="m",
    pages=(ranked(2, 2.0, 0.9), ranked(0, -1.0, 0.1)),
    score_kind="softmax",
    windows=1,
    tokens=TokenCounts(window_pages=2, cached_pages=0, visual_tokens=2, kept_tokens=2, prompt_tokens=2),
    stage_seconds={},
    total_seconds=1.0,
    skipped=(skip(1), skip(3)),
)
BLENDED = replace(ANSWER, score_kind="blend", pages=(ranked(0, None, 0.75), ranked(2, None, 0.5)))


@pytest.mark.parametrize(
    ("kind", "lowest"),
    [
        ("softmax", 0.0),
        ("relative", 0.0),
        ("rank", 0.0),
        ("logit", -11.0),  # 10 below the lowest logit
        ("log_odds", math.log(0.001 / 0.999)),
    ],
)
def test_a_skipped_document_of_one_result_comes_last_with_the_lowest_score(kind: ScoreKind, lowest: float) -> None:
    results = results_of(replace(QUERY, score=kind), ANSWER)
    assert [result.page.document_index for result in results.items] == [2, 0, 1, 3]
    assert [result.score for result in results.items[2:]] == [pytest.approx(lowest)] * 2
    assert results.items[1].score >= results.items[2].score
    assert [result.page.label for result in results.items[2:]] == ["document-1", "gone"]


def test_usable_results_are_counted_first() -> None:
    for count, expected in ((1, [2]), (2, [2, 0]), (3, [2, 0, 1])):
        items = results_of(replace(QUERY, max_results=count), ANSWER).items
        assert [result.page.document_index for result in items] == expected


def test_a_skipped_document_with_a_result_a_page_has_none() -> None:
    by_page = replace(QUERY, documents=tuple(replace(document, yields_one=False) for document in QUERY.documents))
    assert [result.page.document_index for result in results_of(by_page, ANSWER).items] == [2, 0]


def test_a_document_that_lost_a_page_is_ranked_by_the_others() -> None:
    items = results_of(QUERY, replace(ANSWER, skipped=(skip(0, 3),))).items
    assert [result.page.document_index for result in items] == [2, 0]


def test_blended_scores_are_shown_as_they_are_or_as_their_log_odds() -> None:
    results = results_of(replace(QUERY, score="blend"), BLENDED)
    assert (results.kind, results.warnings) == ("blend", ())
    assert [result.score for result in results.items] == [0.75, 0.5, 0.0, 0.0]
    results = results_of(replace(QUERY, score="log_odds"), replace(BLENDED, windows=3))
    assert (results.kind, results.warnings) == ("log_odds", ())
    assert [result.score for result in results.items[:2]] == [pytest.approx(math.log(3)), pytest.approx(0.0)]
