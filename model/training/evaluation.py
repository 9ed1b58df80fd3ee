"""How good an order is: recall in its first places, over examples with known relevant pages.

Takes anything that ranks pages: a `Reranker`, or the network that is being trained. Knows neither files nor training.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from PIL import Image

from model.dataflow import Ranking
from model.training.candidates import open_pages
from model.training.examples import RankingExample

CUTOFFS = (1, 3, 5)


class PageRanker(Protocol):
    """What `Reranker` does."""

    def rank(self, query: str, images: Sequence[Image.Image], /) -> Ranking: ...


def recall_at(order: Sequence[int], relevant: Collection[int], k: int) -> float:
    """Share of the relevant pages, of which there is at least one, among the first k of `order`."""
    return len(set(order[:k]) & set(relevant)) / len(set(relevant))


def evaluate(ranker: PageRanker, examples: Iterable[RankingExample]) -> dict[str, float]:
    """Mean recall@1, recall@3 and recall@5 over the examples; none without examples."""
    results = [recalls(rank(ranker, example), example) for example in examples]
    return {f"recall@{k}": sum(result[k] for result in results) / len(results) for k in CUTOFFS if results}


def rank(ranker: PageRanker, example: RankingExample) -> tuple[int, ...]:
    """The ranker's order of the example's pages."""
    return ranker.rank(example.query, open_pages(example)).order


def recalls(order: Sequence[int], example: RankingExample) -> dict[int, float]:
    """Recall by cutoff. Where no page is known to be relevant, the teacher's first is taken for it."""
    relevant = example.relevant or {example.ranking[0]}
    return {k: recall_at(order, relevant, k) for k in CUTOFFS}
