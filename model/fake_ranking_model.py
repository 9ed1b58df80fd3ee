"""A stand-in for the model in tests and benchmarks, with a function in place of the forward pass.

A real model prepares pages and prompts, so token counts, errors and descriptions are real.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from model.dataflow import Observe, PageImage, PageScores, PreparedPage, PreparedRequest, no_observation
from model.device import StageClock
from model.kept_tokens import KeptTokens
from model.memory_plan import BatchLimits
from model.pages.text_page_format import TextPageFormat
from model.ranking_model import BetweenLayers, FeatureCacheCounts, ModelInfo, PendingBatch, RankingModel


def score_in_input_order(batch: Sequence[PreparedRequest]) -> list[PageScores]:
    """Scores that rank the pages of each request in input order."""
    return [
        PageScores(
            logits=tuple(-float(index) for index in range(len(request.pages))),
            order=tuple(range(len(request.pages))),
            visual_tokens=request.visual_token_count,
            kept_tokens=request.kept_token_count,
            prompt_tokens=request.token_count,
            kept=keep_first_tokens(request) if request.reports_kept_tokens else None,
        )
        for request in batch
    ]


def keep_first_tokens(request: PreparedRequest) -> tuple[KeptTokens, ...]:
    """As many kept tokens as each page has, from its top."""
    return tuple(
        KeptTokens(
            rows=page.rows,
            columns=page.columns,
            mask=bytes(index < kept for index in range(page.visual_token_count)),
        )
        for page, kept in zip(request.pages, request.kept_counts, strict=True)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredBatch:
    """A `PendingBatch` that is complete from the start."""

    scores: list[PageScores]

    def wait(self) -> list[PageScores]:
        return self.scores


@dataclass(kw_only=True, eq=False)
class FakeRankingModel:
    """Wraps `model`, but `start` and `encode` skip the forward pass, and `score_batch` returns the scores.

    A test that replaces another step may derive a class from this one.
    """

    model: RankingModel
    score_batch: Callable[[Sequence[PreparedRequest]], list[PageScores]] = score_in_input_order
    name: str = "fake"

    def describe(self) -> ModelInfo:
        return replace(self.model.describe(), name=self.name)

    @property
    def text_page(self) -> TextPageFormat:
        return self.model.text_page

    @property
    def batch_limits(self) -> BatchLimits:
        return self.model.batch_limits

    def max_window_cost(self, query_characters: int) -> BatchLimits:
        return self.model.max_window_cost(query_characters)

    def warm_up(self, *, observe: Observe = no_observation) -> PageScores:
        return self.model.warm_up(observe=observe)

    def prepare_page(self, page: PageImage, *, tenant: bytes) -> PreparedPage:
        return self.model.prepare_page(page, tenant=tenant)

    def prepare(self, query: str, pages: Sequence[PreparedPage], keep_ratio: float | None = None) -> PreparedRequest:
        return self.model.prepare(query, pages, keep_ratio)

    def start(
        self, batch: Sequence[PreparedRequest], *, observe: Observe, between_layers: BetweenLayers | None = None
    ) -> PendingBatch:
        return ScoredBatch(scores=self.score_batch(batch))

    def encode(self, pages: Sequence[PreparedPage], *, between_layers: BetweenLayers | None = None) -> int:
        return len(pages)

    def patches_to_encode(self, request: PreparedRequest) -> int:
        return 0

    def is_encoded(self, page: PreparedPage) -> bool:
        return True

    def pages_to_encode(self, request: PreparedRequest) -> Sequence[PreparedPage]:
        return ()

    def stage_clock(self) -> StageClock:
        return self.model.stage_clock()

    def cache_counts(self) -> FeatureCacheCounts:
        return self.model.cache_counts()

    def device_memory(self) -> dict[str, int]:
        return self.model.device_memory()
