"""The results of an answer, with the kind of score that was chosen: all pages, or for some documents their best page alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from service.records import (
    DocumentReference,
    RankedPage,
    RerankAnswer,
    RerankQuery,
    ScoreKind,
    TextDocument,
)

_CLIP = 0.001  # of log odds: a sigmoid gives scores in [0.001, 0.999]
_LOGITS_BELOW = 10.0
"""Of a skipped document: so far below the lowest of the others."""

_LONGEST_SCORE = 18
"""In characters. Of a longer number OpenSearch's JSON parser makes a BigDecimal, which its code cannot cast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One line of the answer."""

    page: RankedPage  # the best one, where it stands for its document
    score: float  # of the kind of `Results`


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Best first."""

    items: tuple[Result, ...]
    kind: ScoreKind  # as chosen, or rank (as log odds where those were chosen) after several windows
    warnings: tuple[str, ...]  # about the scores


def results_of(query: RerankQuery, answer: RerankAnswer) -> Results:
    """At most `max_results`. Of a document that yields one result, the best page stands for it.

    Such a document that was skipped comes behind all others, in the order of the query, with the lowest score of the kind.
    """
    kind, warnings = _kind_of(query, answer)
    best = answer.pages[0].logit if answer.pages else None
    items: list[Result] = []
    seen: set[int] = set()
    for place, page in enumerate(answer.pages):
        if query.max_results is not None and len(items) == query.max_results:
            break
        yields_one = query.documents[page.document_index].yields_one
        if not yields_one or page.document_index not in seen:
            share = page.score if answer.score_kind == "blend" else (len(answer.pages) - place) / len(answer.pages)
            score = _score_of(page, kind, share=share, best=best)
            items.append(Result(page=page, score=_shortened(score) if yields_one else score))
            seen.add(page.document_index)
    lowest = _shortened(_lowest(kind, items))
    for index in dict.fromkeys(error.document_index for error in answer.skipped):
        has_room = query.max_results is None or len(items) < query.max_results
        if has_room and index is not None and index not in seen and query.documents[index].yields_one:
            items.append(Result(page=_skipped_page(query, index), score=lowest))
    return Results(items=tuple(items), kind=kind, warnings=warnings)


def shown_text(query: RerankQuery, page: RankedPage) -> str:
    """A text that stands for the page: the text itself, the reference as it was sent, or the label; never binary content."""
    match query.documents[page.document_index]:
        case TextDocument(text=text):
            return text
        case DocumentReference(id=id, pages=pages) as document if document.yields_one:
            return f"ziprerank://{id}" + (f"#page={pages}" if pages else "")
        case _:
            return page.label


def _kind_of(query: RerankQuery, answer: RerankAnswer) -> tuple[ScoreKind, tuple[str, ...]]:
    if answer.score_kind in ("softmax", "blend") or query.score == "rank":
        return query.score, ()
    subject = "raw_scores has no effect: " if query.score == "logit" else ""
    cause = f"logits of {answer.windows} windows do not compare"
    if answer.degradation is not None and answer.windows < 2:
        cause = "there was no time to rank all pages"
    warning = f"{subject}scores are of kind rank and not {query.score}: {cause}"
    return ("log_odds" if query.score == "log_odds" else "rank"), (warning,)


def _score_of(page: RankedPage, kind: ScoreKind, *, share: float, best: float | None) -> float:
    """share: of the pages that are not better, or the blended score.

    best: the logit of the best page; None where logits do not compare.
    """
    relative = share if page.logit is None or best is None else math.exp(page.logit - best)
    match kind:
        case "softmax":
            return page.score
        case "relative":
            return relative
        case "logit":
            return share if page.logit is None else page.logit
        case "rank" | "blend":
            return share
        case "log_odds":
            return _log_odds(relative)


def _log_odds(share: float) -> float:
    clipped = min(max(share, _CLIP), 1 - _CLIP)
    return math.log(clipped / (1 - clipped))


def _lowest(kind: ScoreKind, results: Sequence[Result]) -> float:
    """The score of a skipped document. Logits have no lowest value: it is below those of the results."""
    if kind == "logit":
        return min((result.score for result in results), default=0.0) - _LOGITS_BELOW
    return _log_odds(0.0) if kind == "log_odds" else 0.0


def _skipped_page(query: RerankQuery, index: int) -> RankedPage:
    """Stands for a document of which no page could be ranked."""
    document = query.documents[index]
    return RankedPage(
        document_index=index,
        label=document.id if isinstance(document, DocumentReference) else document.label,
        number=None,
        score=0.0,
        logit=None,
        degraded_reasons=(),
        document_sha256="",
    )


def _shortened(score: float) -> float:
    """The score in as many digits as `_LONGEST_SCORE` has room for."""
    for digits in range(17, 0, -1):
        rounded = float(f"{score:.{digits}g}")
        if len(repr(rounded)) <= _LONGEST_SCORE:
            return rounded
    return score
