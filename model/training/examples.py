"""Records for training and evaluation: questions with candidate pages in the order of the first retrieval stage.

The readers of data sets make these records; `ranking_pass` and `evaluation` use them.
"""

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

OpenPage = Callable[[], Image.Image]
"""Loads the page as an RGB image at every call, so that thousands of pages need not fit into memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingExample:
    """One question, its candidate pages, and the teacher's ranking of them."""

    id: str  # names the example in messages
    query: str
    pages: tuple[OpenPage, ...]  # 1 to 20, in the order of the first stage
    page_ids: tuple[str, ...]  # one for each page
    ranking: tuple[int, ...]  # indices into `pages`, best first, each exactly once
    relevant: frozenset[int]  # indices into `pages`: the ground truth; may be empty


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentQuestion:
    """One question about a document of any length, for evaluation."""

    id: str
    query: str
    domain: str
    pages: tuple[OpenPage, ...]  # all candidates, in the order in which the reranker gets them
    page_ids: tuple[str, ...]
    relevant: frozenset[str]  # page ids: the ground truth; some may not be among the candidates
