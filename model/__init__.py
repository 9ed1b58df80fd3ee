"""ZipRerank as a library: page images and a query in, an order of the pages out.

    from model import Reranker
    reranker = Reranker.from_checkpoint("mtri-admin/ZipRerank")
    ranking = reranker.rank("revenue of the third quarter", page_images)

Plain PyTorch; knows no web server, no environment variables, no threads. A name is imported when it is first asked for, so
that processes which need `model.pages` alone start without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.config import MAX_WINDOW_SIZE, RerankerConfig
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
    from model.pages.image import LONGEST_PAGE_EDGE
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

_HOMES = {
    "DEFAULT_BATCH_LIMITS": "model.memory_plan",
    "LONGEST_PAGE_EDGE": "model.pages.image",
    "MAX_WINDOW_SIZE": "model.config",
    "BatchLimits": "model.memory_plan",
    "CheckpointError": "model.errors",
    "ConfigurationError": "model.errors",
    "DeviceError": "model.errors",
    "DeviceLostError": "model.errors",
    "DeviceMemoryError": "model.errors",
    "InputError": "model.errors",
    "KeepRatioError": "model.errors",
    "MemoryPlan": "model.memory_plan",
    "Observe": "model.dataflow",
    "PageCountError": "model.errors",
    "PageImage": "model.dataflow",
    "PageImageError": "model.errors",
    "PageScores": "model.dataflow",
    "PendingScores": "model.reranker",
    "PreparedPage": "model.dataflow",
    "PreparedRequest": "model.dataflow",
    "QueryError": "model.errors",
    "Ranking": "model.dataflow",
    "Reranker": "model.reranker",
    "RerankerConfig": "model.config",
    "RerankerError": "model.errors",
    "ScoreError": "model.errors",
    "StageClock": "model.device",
    "StageInterval": "model.device",
    "WindowError": "model.errors",
    "WindowStrategy": "model.windows",
    "Windows": "model.windows",
    "choose_windows": "model.windows",
    "combine_windows": "model.reranker",
    "no_observation": "model.dataflow",
}
"""The module of each exported name. The imports above say the same to type checkers; a test compares the two."""

if not TYPE_CHECKING:  # a type checker that saw `__getattr__` would accept misspelt names

    def __getattr__(name: str) -> object:
        """Import an exported name from its module, and keep it. Raises: AttributeError."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
