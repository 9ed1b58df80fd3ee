"""Makes the ranking questions of the demo training: a query of words from one page, and candidate pages from a pool.

Only the right page has all words of the query.
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
    """The properties that all lists of a batch share."""

    pages: int
    query_words: int
    keep_ratio: float
    near_share: float = 0.0  # share of the wrong pages with some words of the query, if the pool has such
    strange_words: int = 0  # number of words in the query that the model cannot read


@dataclass(frozen=True, slots=True, kw_only=True)
class PageList:
    """A query, its candidate pages, and the right answer."""

    text: str  # the query
    query: tuple[int, ...]  # its known words, as places in `vocabulary.words()`
    pages: tuple[int, ...]  # the candidates, as places in a pool
    right: int  # the right page, as an index into `pages`


def deal_list(shape: ListShape, pool: PagePool, chance: np.random.Generator) -> PageList:
    """A random list. Any page of the pool with enough known words may be the right one."""
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
    """Distinct wrong pages, each of which lacks at least one word of the query."""
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
