"""What training and evaluation learn from: questions with candidate pages, in the first stage's order.

Knows neither files nor the network. Readers make these records, `ranking_pass` and `evaluation` take them.
"""

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

OpenPage = Callable[[], Image.Image]
"""Gives the page as RGB, each time it is called: thousands of pages need not fit into memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingExample:
    """One question, its candidates, and the order that a teacher gave them."""

    id: str  # for messages
    query: str
    pages: tuple[OpenPage, ...]  # 1 to 20, in the first stage's order
    page_ids: tuple[str, ...]  # one a page
    ranking: tuple[int, ...]  # indices into `pages`, best first, each exactly once
    relevant: frozenset[int]  # indices into `pages`: the ground truth; may be empty


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentQuestion:
    """One question about a document of any length, for evaluation."""

    id: str
    query: str
    domain: str
    pages: tuple[OpenPage, ...]  # all candidates, in the order in which they are given to the reranker
    page_ids: tuple[str, ...]
    relevant: frozenset[str]  # page ids: the ground truth; may name pages that are no candidates
