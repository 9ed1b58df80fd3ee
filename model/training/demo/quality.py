"""Measures recall@1 of a checkpoint on synthetic pages that the training never draws, by list length and keep ratio.

Uses the public interface, like a user: page images into a `Reranker`, a ranking out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from model.dataflow import PageImage, PreparedPage
from model.reranker import Reranker
from model.training.demo.page_lists import ListShape, PageList, deal_list
from model.training.demo.page_pool import PagePool

HELD_OUT_POOL = 90
"""The number of a pool that is never used in training."""

_QUERY_WORDS = (2, 3, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Recall@1 over lists of one length at one keep ratio."""

    pages: int  # in each list
    keep_ratio: float
    lists: int  # number of lists
    recall_at_1: float


def measure(
    reranker: Reranker, pool: PagePool, *, lists: int, pages: Sequence[int], keep_ratios: Sequence[float], seed: int
) -> Iterator[Quality]:
    """Rank `lists` lists of each length in `pages` at each keep ratio. All keep ratios get the same lists."""
    prepared = [_prepared(reranker, pool, number) for number in range(len(pool))]
    for count in pages:
        dealt = deal_lists(pool, count, lists, seed=seed)
        for keep_ratio in keep_ratios:
            right = sum(_is_right(reranker, each, prepared, keep_ratio) for each in tqdm(dealt, leave=False))
            yield Quality(pages=count, keep_ratio=keep_ratio, lists=lists, recall_at_1=right / lists)


def deal_lists(pool: PagePool, pages: int, count: int, *, seed: int) -> list[PageList]:
    """`count` lists of `pages` pages, with queries of two, three and four words in turn."""
    chance = np.random.default_rng((seed, pages))
    shapes = [
        ListShape(pages=pages, query_words=_QUERY_WORDS[i % len(_QUERY_WORDS)], keep_ratio=1.0) for i in range(count)
    ]
    return [deal_list(shape, pool, chance) for shape in shapes]


def _prepared(reranker: Reranker, pool: PagePool, number: int) -> PreparedPage:
    return reranker.prepare_page(PageImage(pixels=pool.colour(number)))


def _is_right(reranker: Reranker, each: PageList, prepared: Sequence[PreparedPage], keep_ratio: float) -> bool:
    [answer] = reranker.score([reranker.prepare(each.text, [prepared[page] for page in each.pages], keep_ratio)])
    return answer.order[0] == each.right
