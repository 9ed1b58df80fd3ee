"""The order of the first stage and that of the model, blended."""

import math
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.inference.blending import blended
from service.records import Blend, BlendMethod, RankedPage

METHODS: Sequence[BlendMethod] = ("rank", "score")


def page(document: int, *, number: int | None = None, logit: float | None = None) -> RankedPage:
    return RankedPage(
        document_index=document,
        label=f"{document}",
        number=number,
        score=0.5,
        logit=logit,
        degraded_reasons=(),
        document_sha256="",
    )


def order(pages: Sequence[RankedPage]) -> list[int]:
    return [page.document_index for page in pages]


def scores(pages: Sequence[RankedPage], weight: float, by: BlendMethod, **first: float) -> dict[int, float]:
    """Blended, by document. first: the first stage's scores, as d0=…"""
    of_first = {int(name[1:]): score for name, score in first.items()}
    found = blended(pages, Blend(weight=weight, by=by, first_stage_scores=of_first))
    return {page.document_index: page.score for page in found}


def test_ranks_are_fused_by_the_reciprocals_of_both_places_where_60_is_added() -> None:
    found = scores([page(2), page(0), page(1)], 0.25, "rank", d0=0.9, d1=0.5, d2=0.1)
    best = 1 / 61  # of a page that both place first
    assert found == {
        0: pytest.approx((0.25 / 61 + 0.75 / 62) / best),
        1: pytest.approx((0.25 / 62 + 0.75 / 63) / best),
        2: pytest.approx((0.25 / 63 + 0.75 / 61) / best),
    }


def test_without_scores_the_list_is_in_the_order_of_the_first_stage() -> None:
    assert order(blended([page(5), page(0), page(3)], Blend(weight=1))) == [0, 3, 5]


def test_scores_are_normalised_and_added() -> None:
    pages = [page(1, logit=3.0), page(0, logit=1.0), page(2, logit=-4.0)]
    found = scores(pages, 0.5, "score", d0=20, d1=10, d2=15)
    assert found == {
        0: pytest.approx(0.5 + 0.5 * math.exp(-2)),
        1: pytest.approx(0 + 0.5),
        2: pytest.approx(0.25 + 0.5 * math.exp(-7)),
    }


def test_after_several_windows_the_model_s_scores_are_its_places() -> None:
    pages = [page(1), page(0), page(2), page(3)]
    found = scores(pages, 0.5, "score", d0=1, d1=1, d2=1, d3=0)
    assert found == {1: 1.0, 0: pytest.approx(0.875), 2: pytest.approx(0.75), 3: pytest.approx(0.125)}


def test_pages_of_one_document_share_its_place_and_ties_are_in_the_order_of_the_model() -> None:
    pages = [page(1, number=7), page(0, number=2), page(1, number=1), page(0, number=9)]
    found = blended(pages, Blend(weight=1, first_stage_scores={0: 0.5, 1: 0.5}))
    assert [each.number for each in found] == [7, 2, 1, 9]
    assert {each.score for each in found} == {1.0}
    found = blended(pages, Blend(weight=1, first_stage_scores={0: 0.9, 1: 0.5}))
    assert [each.number for each in found] == [2, 9, 7, 1]


@pytest.mark.parametrize("extremes", [(-1.7e308, 1.7e308), (0.0, 5e-324), (3.0, 3.0)])
def test_any_finite_scores_of_the_first_stage_give_scores_from_0_to_1(extremes: tuple[float, float]) -> None:
    low, high = extremes
    found = scores([page(0, logit=0.0), page(1, logit=-1e300)], 0.5, "score", d0=low, d1=high)
    assert all(0 <= score <= 1 for score in found.values())


@st.composite
def rankings(draw: st.DrawFn) -> tuple[list[RankedPage], Mapping[int, float]]:
    """Pages in the model's order, a page a document, with or without logits; and first-stage scores, with ties."""
    count = draw(st.integers(1, 12))
    documents = draw(st.permutations(range(count)))
    logits = sorted(draw(st.lists(st.floats(-20, 20), min_size=count, max_size=count)), reverse=True)
    has_logits = draw(st.booleans())
    first = draw(st.lists(st.integers(-3, 3), min_size=count, max_size=count))
    pages = [
        page(document, logit=logit if has_logits else None) for document, logit in zip(documents, logits, strict=True)
    ]
    return pages, {document: score / 4 for document, score in enumerate(first)}


@pytest.mark.parametrize("by", METHODS)
@given(ranking=rankings(), weight=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
def test_a_blend_lies_between_the_two_orders(
    by: BlendMethod, ranking: tuple[list[RankedPage], Mapping[int, float]], weight: float
) -> None:
    pages, first = ranking
    found = blended(pages, Blend(weight=weight, by=by, first_stage_scores=first))
    assert sorted(order(found)) == sorted(order(pages))
    assert all(0 <= each.score <= 1 and each.logit is None for each in found)
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    if weight == 0:
        assert order(found) == order(pages)
    if weight == 1:
        assert [first[document] for document in order(found)] == sorted(first.values(), reverse=True)
    place = {document: place for place, document in enumerate(order(found))}
    for better, worse in ((a, b) for index, a in enumerate(order(pages)) for b in order(pages)[index + 1 :]):
        if first[better] >= first[worse]:  # on which both agree
            assert place[better] < place[worse]
