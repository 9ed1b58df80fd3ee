"""What a check is: its sizes, its clock, and how it reports what does not run."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.workloads import model_shape
from model.config import ModelConfig
from model.device import Compute, seconds_of

NEEDS_CUDA = "needs CUDA"

_REPEATS = 5
_CALLS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large the checks are."""

    shape: str
    page_patches: int
    page_counts: tuple[int, ...]
    sequence_lengths: tuple[int, ...]
    visual_tokens: int  # of a request
    pages: int  # of a request

    @property
    def model(self) -> ModelConfig:
        return model_shape(self.shape)


ON_CARD = Sizes(
    shape="published",
    page_patches=2944,
    page_counts=(1, 4, 16),
    sequence_lengths=(1024, 2048, 4096, 8192, 15104),
    visual_tokens=14_720,
    pages=20,
)
ON_CPU = Sizes(
    shape="demo", page_patches=256, page_counts=(1, 2), sequence_lengths=(64, 128), visual_tokens=500, pages=2
)

Check = Callable[[Compute, Sizes], dict[str, Any]]


def run_check(check: Check, compute: Compute, sizes: Sizes) -> dict[str, Any]:
    """The check's record with its duration, or its error."""
    started = time.perf_counter()
    try:
        record = {"status": "done", **check(compute, sizes)}
    except Exception as error:  # noqa: BLE001 (reported; the other checks go on)
        record = {"status": "failed", "error": in_short(error)}
    return record | {"seconds": round(time.perf_counter() - started, 1)}


def attempt(measure: Callable[[], float]) -> float | str:
    """A figure, or why there is none: not every kernel takes every input."""
    try:
        return round(measure(), 4)
    except Exception as error:  # noqa: BLE001 (reported beside the figures of the others)
        return in_short(error)


def in_short(error: Exception) -> str:
    """The first line of it."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:160]}"


def milliseconds(work: Callable[[], object], compute: Compute) -> float:
    """Of one call, once it runs smoothly: the median of a few blocks of calls, the first block left out."""

    def block() -> None:
        for _ in range(_CALLS):
            work()

    seconds = [seconds_of(block, compute.device) for _ in range(1 + _REPEATS)]
    return statistics.median(seconds[1:]) / _CALLS * 1000


def tflops(flop: float, milliseconds: float) -> float:
    return round(flop / milliseconds / 1e9, 4)
