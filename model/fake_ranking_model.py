"""A stand-in for the model in tests and benchmarks: real up to the forward pass, whose scores a function gives.

Pages and prompts are prepared by a real model, so that token counts, refusals and descriptions are its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from model.dataflow import Observe, PageImage, PageScores, PreparedPage, PreparedRequest
from model.device import StageClock
from model.memory_plan import BatchLimits
from model.ranking_model import FeatureCacheCounts, ModelInfo, PendingBatch, RankingModel


def score_in_input_order(batch: Sequence[PreparedRequest]) -> list[PageScores]:
    """Scores that fall from page to page."""
    return [
        PageScores(
            logits=tuple(-float(index) for index in range(len(request.pages))),
            order=tuple(range(len(request.pages))),
            visual_tokens=request.visual_token_count,
            kept_tokens=request.kept_token_count,
            prompt_tokens=request.token_count,
        )
        for request in batch
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredBatch:
    """A batch whose scores are there."""

    scores: list[PageScores]

    def wait(self) -> list[PageScores]:
        return self.scores


@dataclass(kw_only=True, eq=False)
class FakeRankingModel:
    """`model` in all but the forward pass: `start` and `encode` cost nothing, and `score_batch` gives the scores.

    A test that changes a further step derives a class from it.
    """

    model: RankingModel
    score_batch: Callable[[Sequence[PreparedRequest]], list[PageScores]] = score_in_input_order
    name: str = "fake"

    def describe(self) -> ModelInfo:
        return replace(self.model.describe(), name=self.name)

    @property
    def batch_limits(self) -> BatchLimits:
        return self.model.batch_limits

    def max_window_cost(self, query_characters: int) -> BatchLimits:
        return self.model.max_window_cost(query_characters)

    def warm_up(self) -> object:
        return self.model.warm_up()

    def prepare_page(self, page: PageImage, *, tenant: bytes) -> PreparedPage:
        return self.model.prepare_page(page, tenant=tenant)

    def prepare(self, query: str, pages: Sequence[PreparedPage], keep_ratio: float | None = None) -> PreparedRequest:
        return self.model.prepare(query, pages, keep_ratio)

    def start(self, batch: Sequence[PreparedRequest], *, observe: Observe) -> PendingBatch:
        return ScoredBatch(scores=self.score_batch(batch))

    def encode(self, pages: Sequence[PreparedPage]) -> int:
        return len(pages)

    def patches_to_encode(self, request: PreparedRequest) -> int:
        return 0

    def stage_clock(self) -> StageClock:
        return self.model.stage_clock()

    def cache_counts(self) -> FeatureCacheCounts:
        return self.model.cache_counts()

    def device_memory(self) -> dict[str, int]:
        return self.model.device_memory()
