"""Runs the second stage of the demo training: ranking lists of pages from one pool, whose features are computed once."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from model.dataflow import PageImage, PreparedPage, VisualTokens, no_observation
from model.reranker import Reranker
from model.training.demo.optimiser import Optimiser
from model.training.demo.page_lists import ListShape, deal_list
from model.training.demo.page_pool import PagePool
from model.training.demo.ranking import Ranker, RankingReport, align_lengths
from model.training.demo.recipe import Course, Lessons
from model.training.demo.stage import Stage

_PAGES_AT_ONCE = 16
_QUERY_WORDS = (2, 3, 4)
_STRANGE_WORDS = (0, 0, 0, 1, 2)
_PROMPT_TOKENS = 200  # approximately
_LEVEL_SHARE = 0.35  # of the steps at the highest rate: short, because gradients of few lists are noisy


class ReadPages:
    """Encodes pages of a pool at every call."""

    def __init__(self, reranker: Reranker, pool: PagePool) -> None:
        self._reranker = reranker
        self._pool = pool

    def __call__(self, pages: Sequence[int]) -> VisualTokens:
        return self._reranker.encoder.encode([self.page(number) for number in pages], no_observation)

    @property
    def device(self) -> torch.device:
        return self._reranker.compute.device

    def page(self, number: int) -> PreparedPage:
        return self._reranker.prepare_page(PageImage(pixels=self._pool.colour(number)))


class RememberedPages:
    """Encodes all pages of a pool once and returns the stored features. DeepStack features are replaced by zeros."""

    def __init__(self, read: ReadPages, count: int) -> None:
        with torch.no_grad(), torch.autocast(read.device.type, torch.bfloat16):
            batches = [
                read(range(start, min(start + _PAGES_AT_ONCE, count))) for start in range(0, count, _PAGES_AT_ONCE)
            ]
        main = torch.cat([batch.main.bfloat16() for batch in batches])
        self._main = main.view(count, -1, main.shape[1])  # (pages, visual tokens, D)
        self._deepstack_widths = [features.shape[1] for features in batches[0].deepstack]

    def __call__(self, pages: Sequence[int]) -> VisualTokens:
        main = self._main[list(pages)].flatten(0, 1).float()  # (V, D)
        deepstack = tuple(main.new_zeros(1, width).expand(len(main), -1) for width in self._deepstack_widths)
        return VisualTokens(main=main, deepstack=deepstack)


def learn_to_rank(reranker: Reranker, pool: PagePool, lessons: Lessons, *, seed: int, state_file: Path) -> None:
    """Train the decoder in place. Resumes the run that is saved in `state_file`, if any.

    The vision tower and the embeddings are frozen, because they would memorise the few pages of the pool.
    """
    read = ReadPages(reranker, pool)
    with torch.no_grad():
        align_lengths(reranker.network, read(range(min(_PAGES_AT_ONCE, len(pool)))).main)
    reranker.network.model.visual.requires_grad_(False)
    reranker.network.model.language_model.embed_tokens.requires_grad_(False)
    torch.manual_seed(seed)  # the same initial heads, no matter which code ran before
    ranker = Ranker(reranker, read.page(0)).to(read.device)
    stage = Stage(
        name="learning to rank",
        module=ranker,
        device=read.device,
        optimiser=Optimiser([ranker], lessons.rates, steps=lessons.steps, level_share=_LEVEL_SHARE),
        steps=lessons.steps,
        seed=seed,
        state_file=state_file,
    )
    left = range(stage.steps_done(), stage.steps)
    if not left:
        return
    remembered = RememberedPages(read, len(pool))

    def rank(step: int, chance: np.random.Generator) -> RankingReport:
        course = lessons.course(step)
        shape = random_shape(course, chance)
        lists = [deal_list(shape, pool, chance) for _ in range(_lists_in(shape, lessons, ranker.page_tokens))]
        report: RankingReport = ranker(lists, shape, remembered, pool, course.help_share)
        return report

    stage.run(left, rank)


def random_shape(course: Course, chance: np.random.Generator) -> ListShape:
    """The list shape of one step, drawn from the choices of the course."""
    return ListShape(
        pages=int(chance.choice(course.pages)),
        query_words=int(chance.choice(_QUERY_WORDS)),
        keep_ratio=float(chance.choice(course.keep_ratios)),
        near_share=course.near_share,
        strange_words=int(chance.choice(_STRANGE_WORDS)),
    )


def _lists_in(shape: ListShape, lessons: Lessons, page_tokens: int) -> int:
    return max(1, int(lessons.tokens / (shape.pages * page_tokens * shape.keep_ratio + _PROMPT_TOKENS)))
