"""The order of the first stage, which found the documents, and that of the model, blended into one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from service.records import Blend, RankedPage

_FIRST_PLACE = 61
"""Reciprocal rank fusion adds 60 to places that count from 1."""


def blended(pages: Sequence[RankedPage], blend: Blend) -> tuple[RankedPage, ...]:
    """The pages, best first, with blended scores in [0, 1] and without logits. Of equal ones the model's better one is first.

    pages: in the model's order, best first. Those of one document share the score and the place that the first stage gave it.
    """
    documents = {page.document_index for page in pages}
    if blend.by == "score":
        first_stage = _normalised({index: blend.first_stage_scores[index] for index in documents})
        own = _own_scores(pages)
    else:
        first_stage = {index: _share_of_place(place) for index, place in _places(documents, blend).items()}
        own = [_share_of_place(place) for place in range(len(pages))]
    weight = blend.weight
    scored = [
        replace(page, score=weight * first_stage[page.document_index] + (1 - weight) * score, logit=None)
        for page, score in zip(pages, own, strict=True)
    ]
    return tuple(sorted(scored, key=lambda page: -page.score))


def _places(documents: set[int], blend: Blend) -> Mapping[int, int]:
    """Of each document in the first stage, from 0: as many as documents with a higher score, or by the order of the list."""
    scores = blend.first_stage_scores
    if not scores:
        return {index: place for place, index in enumerate(sorted(documents))}
    falling = sorted((scores[index] for index in documents), reverse=True)
    first_of = {score: place for place, score in reversed(list(enumerate(falling)))}
    return {index: first_of[scores[index]] for index in documents}


def _share_of_place(place: int) -> float:
    """In (0, 1], 1 for the first place (0)."""
    return _FIRST_PLACE / (_FIRST_PLACE + place)


def _normalised(scores: Mapping[int, float]) -> Mapping[int, float]:
    """From 0 for the lowest to 1 for the highest; 1 for all where they are equal."""
    lowest, highest = min(scores.values()), max(scores.values())
    span = highest / 2 - lowest / 2  # halves, whose difference is finite whatever the scores
    if span <= 0:
        return dict.fromkeys(scores, 1.0)
    return {index: min((score / 2 - lowest / 2) / span, 1.0) for index, score in scores.items()}


def _own_scores(pages: Sequence[RankedPage]) -> list[float]:
    """The model's: relative to the best page where logits compare, otherwise by place."""
    best = pages[0].logit
    return [
        (len(pages) - place) / len(pages) if page.logit is None or best is None else math.exp(page.logit - best)
        for place, page in enumerate(pages)
    ]
