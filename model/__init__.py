"""ZipRerank as a library: page images and a query in, an order of the pages out.

    from model import Reranker
    reranker = Reranker.from_checkpoint("mtri-admin/ZipRerank")
    ranking = reranker.rank("revenue of the third quarter", page_images)

Plain PyTorch: no web server, no environment variables, no threads. Each name is imported on first access, so processes that
need `model.pages` alone start without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.absent_cards import AbsentCardPlan, CheckpointSizes, local_sizes, plan_absent_cards
    from model.config import MAX_WINDOW_SIZE, RerankerConfig
    from model.dataflow import Observe, PageImage, PageScores, PreparedPage, PreparedRequest, Ranking, no_observation
    from model.device import StageClock, StageInterval
    from model.diagnosis import (
        LARGE_CHECKPOINT,
        AttentionFacts,
        CheckpointFacts,
        CompilationFacts,
        DeviceFacts,
        MemoryFacts,
        WeightFacts,
        card_count,
        card_obstacle,
        examine_attention,
        examine_checkpoint,
        examine_compilation,
        examine_device,
        examine_memory,
        examine_weights,
        missing_download,
        scripts_without_font,
        usable_fonts,
    )
    from model.errors import (
        CheckpointError,
        ConfigurationError,
        DeviceError,
        DeviceLostError,
        DeviceMemoryError,
        InputError,
        KeepRatioError,
        PageCountError,
        PageImageError,
        QueryError,
        RerankerError,
        ScoreError,
        WindowError,
    )
    from model.fake_ranking_model import FakeRankingModel, score_in_input_order
    from model.kept_tokens import KeptTokens
    from model.loading import load_reranker
    from model.memory_plan import DEFAULT_BATCH_LIMITS, BatchLimits, MemoryPlan
    from model.pages.image import LONGEST_PAGE_EDGE
    from model.pages.text_page_format import TextPageFormat
    from model.ranking_model import (
        AttentionInfo,
        FeatureCacheCounts,
        LayersInfo,
        ModelInfo,
        PendingBatch,
        RankingModel,
    )
    from model.reranker import PendingScores, Reranker, combine_windows
    from model.windows import WindowPlan, WindowStrategy, choose_windows

__all__ = [
    "DEFAULT_BATCH_LIMITS",
    "LARGE_CHECKPOINT",
    "LONGEST_PAGE_EDGE",
    "MAX_WINDOW_SIZE",
    "AbsentCardPlan",
    "AttentionFacts",
    "AttentionInfo",
    "BatchLimits",
    "CheckpointError",
    "CheckpointFacts",
    "CheckpointSizes",
    "CompilationFacts",
    "ConfigurationError",
    "DeviceError",
    "DeviceFacts",
    "DeviceLostError",
    "DeviceMemoryError",
    "FakeRankingModel",
    "FeatureCacheCounts",
    "InputError",
    "KeepRatioError",
    "KeptTokens",
    "LayersInfo",
    "MemoryFacts",
    "MemoryPlan",
    "ModelInfo",
    "Observe",
    "PageCountError",
    "PageImage",
    "PageImageError",
    "PageScores",
    "PendingBatch",
    "PendingScores",
    "PreparedPage",
    "PreparedRequest",
    "QueryError",
    "Ranking",
    "RankingModel",
    "Reranker",
    "RerankerConfig",
    "RerankerError",
    "ScoreError",
    "StageClock",
    "StageInterval",
    "TextPageFormat",
    "WeightFacts",
    "WindowError",
    "WindowPlan",
    "WindowStrategy",
    "card_count",
    "card_obstacle",
    "choose_windows",
    "combine_windows",
    "examine_attention",
    "examine_checkpoint",
    "examine_compilation",
    "examine_device",
    "examine_memory",
    "examine_weights",
    "load_reranker",
    "local_sizes",
    "missing_download",
    "no_observation",
    "plan_absent_cards",
    "score_in_input_order",
    "scripts_without_font",
    "usable_fonts",
]

_HOMES = {
    "DEFAULT_BATCH_LIMITS": "model.memory_plan",
    "LARGE_CHECKPOINT": "model.diagnosis",
    "LONGEST_PAGE_EDGE": "model.pages.image",
    "MAX_WINDOW_SIZE": "model.config",
    "AbsentCardPlan": "model.absent_cards",
    "AttentionFacts": "model.diagnosis",
    "AttentionInfo": "model.ranking_model",
    "BatchLimits": "model.memory_plan",
    "CheckpointError": "model.errors",
    "CheckpointFacts": "model.diagnosis",
    "CheckpointSizes": "model.absent_cards",
    "CompilationFacts": "model.diagnosis",
    "ConfigurationError": "model.errors",
    "DeviceError": "model.errors",
    "DeviceFacts": "model.diagnosis",
    "DeviceLostError": "model.errors",
    "DeviceMemoryError": "model.errors",
    "FakeRankingModel": "model.fake_ranking_model",
    "FeatureCacheCounts": "model.ranking_model",
    "InputError": "model.errors",
    "KeepRatioError": "model.errors",
    "LayersInfo": "model.ranking_model",
    "MemoryFacts": "model.diagnosis",
    "MemoryPlan": "model.memory_plan",
    "ModelInfo": "model.ranking_model",
    "KeptTokens": "model.kept_tokens",
    "Observe": "model.dataflow",
    "PageCountError": "model.errors",
    "PageImage": "model.dataflow",
    "PageImageError": "model.errors",
    "PageScores": "model.dataflow",
    "PendingBatch": "model.ranking_model",
    "PendingScores": "model.reranker",
    "PreparedPage": "model.dataflow",
    "PreparedRequest": "model.dataflow",
    "QueryError": "model.errors",
    "Ranking": "model.dataflow",
    "RankingModel": "model.ranking_model",
    "Reranker": "model.reranker",
    "RerankerConfig": "model.config",
    "RerankerError": "model.errors",
    "ScoreError": "model.errors",
    "StageClock": "model.device",
    "StageInterval": "model.device",
    "TextPageFormat": "model.pages.text_page_format",
    "WeightFacts": "model.diagnosis",
    "WindowError": "model.errors",
    "WindowPlan": "model.windows",
    "WindowStrategy": "model.windows",
    "card_count": "model.diagnosis",
    "card_obstacle": "model.diagnosis",
    "choose_windows": "model.windows",
    "combine_windows": "model.reranker",
    "examine_attention": "model.diagnosis",
    "examine_checkpoint": "model.diagnosis",
    "examine_compilation": "model.diagnosis",
    "examine_device": "model.diagnosis",
    "examine_memory": "model.diagnosis",
    "examine_weights": "model.diagnosis",
    "load_reranker": "model.loading",
    "local_sizes": "model.absent_cards",
    "missing_download": "model.diagnosis",
    "no_observation": "model.dataflow",
    "plan_absent_cards": "model.absent_cards",
    "score_in_input_order": "model.fake_ranking_model",
    "scripts_without_font": "model.diagnosis",
    "usable_fonts": "model.diagnosis",
}
"""The module that defines each exported name. Must match the imports above, which serve type checkers; a test compares them."""

if not TYPE_CHECKING:  # a type checker that saw `__getattr__` would accept misspelt names

    def __getattr__(name: str) -> object:
        """Import an exported name from its module and store it in this one. Raises: AttributeError."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
