"""ZipRerank as a library: page images and a query in, an order of the pages out.

    from model import Reranker
    reranker = Reranker.from_checkpoint("mtri-admin/ZipRerank")
    ranking = reranker.rank("revenue of the third quarter", page_images)

Plain PyTorch; knows no web server, no environment variables, no threads.
"""

from model.absent_cards import AbsentCardPlan, CheckpointSizes, local_sizes, plan_absent_cards
from model.config import LONGEST_PAGE_EDGE, MAX_WINDOW_SIZE, RerankerConfig
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
from model.memory_plan import DEFAULT_BATCH_LIMITS, BatchLimits, MemoryPlan
from model.reranker import PendingScores, Reranker, combine_windows
from model.windows import Windows, WindowStrategy, choose_windows

__all__ = [
    "DEFAULT_BATCH_LIMITS",
    "LARGE_CHECKPOINT",
    "LONGEST_PAGE_EDGE",
    "MAX_WINDOW_SIZE",
    "AbsentCardPlan",
    "AttentionFacts",
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
    "InputError",
    "KeepRatioError",
    "MemoryFacts",
    "MemoryPlan",
    "Observe",
    "PageCountError",
    "PageImage",
    "PageImageError",
    "PageScores",
    "PendingScores",
    "PreparedPage",
    "PreparedRequest",
    "QueryError",
    "Ranking",
    "Reranker",
    "RerankerConfig",
    "RerankerError",
    "ScoreError",
    "StageClock",
    "StageInterval",
    "WeightFacts",
    "WindowError",
    "WindowStrategy",
    "Windows",
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
    "local_sizes",
    "missing_download",
    "no_observation",
    "plan_absent_cards",
    "usable_fonts",
]
