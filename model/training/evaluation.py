"""Measures the quality of rankings by recall@k, over examples with known relevant pages.

Evaluates any `PageRanker`: a `Reranker`, or the network that is being trained.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from PIL import Image

from model.dataflow import Ranking
from model.training.candidates import open_pages
from model.training.examples import RankingExample

CUTOFFS = (1, 3, 5)


class PageRanker(Protocol):
    """The part of `Reranker` that evaluation calls."""

    def rank(self, query: str, images: Sequence[Image.Image], /) -> Ranking: ...


def recall_at(order: Sequence[int], relevant: Collection[int], k: int) -> float:
    """The share of the relevant pages that are among the first k of `order`. `relevant` must not be empty."""
    return len(set(order[:k]) & set(relevant)) / len(set(relevant))


def evaluate(ranker: PageRanker, examples: Iterable[RankingExample]) -> dict[str, float]:
    """Mean recall@1, recall@3 and recall@5 over the examples, by name; empty without examples."""
    results = [recalls(rank(ranker, example), example) for example in examples]
    return {f"recall@{k}": sum(result[k] for result in results) / len(results) for k in CUTOFFS if results}


def rank(ranker: PageRanker, example: RankingExample) -> tuple[int, ...]:
    """The indices of the example's pages in the order of the ranker, best first."""
    return ranker.rank(example.query, open_pages(example)).order


def recalls(order: Sequence[int], example: RankingExample) -> dict[int, float]:
    """Recall by cutoff. If the example has no relevant page, the first page of the teacher's ranking counts as relevant."""
    relevant = example.relevant or {example.ranking[0]}
    return {k: recall_at(order, relevant, k) for k in CUTOFFS}
