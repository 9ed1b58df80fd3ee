"""The questions that the demo model learns to rank by: a query made of words of one page, and candidate pages of a pool.

Only the right page has all words of the query. Knows no network.
"""

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from model.training.demo.page_pool import PagePool
from model.training.demo.vocabulary import words

_SHORT_WORDS = ("a", "of", "to", "in", "is", "at", "on", "by", "or", "we", "?")
_LETTERS = np.array(list(string.ascii_lowercase))


@dataclass(frozen=True, slots=True, kw_only=True)
class ListShape:
    """What all lists of a batch have in common."""

    pages: int
    query_words: int
    keep_ratio: float
    near_share: float = 0.0  # of the other pages that have some of the query's words, where the pool has such
    strange_words: int = 0  # in the query: words that cannot be read, which help nobody


@dataclass(frozen=True, slots=True, kw_only=True)
class PageList:
    text: str  # the query as it is asked
    query: tuple[int, ...]  # places of its known words
    pages: tuple[int, ...]  # places in a pool
    right: int  # index into `pages`


def deal_list(shape: ListShape, pool: PagePool, chance: np.random.Generator) -> PageList:
    """Any page of the pool may be the right one; pages with too few words are passed over."""
    while True:
        right = int(chance.integers(len(pool)))
        known = sorted(pool.known_words[right])
        if len(known) < shape.query_words:
            continue
        query = tuple(int(place) for place in chance.choice(known, shape.query_words, replace=False))
        pages = chance.permutation([right, *_others(shape, pool, query, right, chance)])
        return PageList(
            text=_text(query, shape.strange_words, chance),
            query=query,
            pages=tuple(map(int, pages)),
            right=int(np.flatnonzero(pages == right)[0]),
        )


def _others(
    shape: ListShape, pool: PagePool, query: Sequence[int], right: int, chance: np.random.Generator
) -> Sequence[int]:
    """Different pages that lack one of the query's words at least."""
    lacking = list(_lacking(pool, query, right, chance))
    wanted = round((shape.pages - 1) * shape.near_share)
    near = [page for page in lacking if wanted and not pool.known_words[page].isdisjoint(query)][:wanted]
    return [*near, *(page for page in lacking if page not in near)][: shape.pages - 1]


def _lacking(pool: PagePool, query: Sequence[int], right: int, chance: np.random.Generator) -> Iterator[int]:
    for page in chance.permutation(len(pool)):
        if page != right and not pool.known_words[page].issuperset(query):
            yield int(page)


def _text(query: Sequence[int], strange_words: int, chance: np.random.Generator) -> str:
    known = [words()[place] for place in query]
    for _ in range(strange_words):
        known.insert(int(chance.integers(len(known) + 1)), _strange_word(chance))
    return " ".join(known)


def _strange_word(chance: np.random.Generator) -> str:
    if chance.random() < 0.5:
        return str(chance.choice(_SHORT_WORDS))
    return "".join(chance.choice(_LETTERS, int(chance.integers(2, 9))))
