"""ZipRerank as a library: page images and a query in, an order of the pages out.

    from model import Reranker
    reranker = Reranker.from_checkpoint("mtri-admin/ZipRerank")
    ranking = reranker.rank("revenue of the third quarter", page_images)

Plain PyTorch; knows no web server, no environment variables, no threads.
"""

from model.config import LONGEST_PAGE_EDGE, MAX_WINDOW_SIZE, RerankerConfig
from model.dataflow import Observe, PageImage, PageScores, PreparedPage, PreparedRequest, Ranking, no_observation
from model.device import StageClock, StageInterval
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
    "LONGEST_PAGE_EDGE",
    "MAX_WINDOW_SIZE",
    "BatchLimits",
    "CheckpointError",
    "ConfigurationError",
    "DeviceError",
    "DeviceLostError",
    "DeviceMemoryError",
    "InputError",
    "KeepRatioError",
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
    "WindowError",
    "WindowStrategy",
    "Windows",
    "choose_windows",
    "combine_windows",
    "no_observation",
]
