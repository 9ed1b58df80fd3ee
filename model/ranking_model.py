"""The model as a service sees it: one protocol, and the records with which a model describes itself.

`Reranker` is the model, `FakeRankingModel` a stand-in for tests and benchmarks. Depends on no network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from model.dataflow import Observe, PageImage, PageScores, PreparedPage, PreparedRequest
from model.device import StageClock
from model.memory_plan import BatchLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionInfo:
    """The attention kernel of one tower."""

    kernel: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersInfo:
    """How the layers of one tower run at the moment: a compiler that fails turns itself off."""

    is_compiled: bool
    reason: str
    compile_seconds: float | None  # of the first compiled call; None before it, and for layers that run as written


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What is loaded and how it runs: for descriptions, logs and metrics."""

    name: str  # as the checkpoint was asked for
    revision: str | None  # the hub's commit; None for a folder
    device: str  # cpu, or cuda:N
    device_name: str  # of the card, or cpu
    dtype: str
    compute_reason: str  # why this device and dtype
    vision_attention: AttentionInfo
    text_attention: AttentionInfo
    vision_layers: LayersInfo
    text_layers: LayersInfo
    compressor: str
    quantise: str  # none, fp8 or int8
    quantise_reason: str
    memory_plan: str | None  # one sentence with the figures; None on a CPU
    feature_cache_device_bytes: int  # the most that the cache of page features holds on the device
    feature_cache_host_bytes: int  # and in host memory


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureCacheCounts:
    """The cache of page features: its events since the warm-up, and the bytes that it holds now."""

    hits: int
    misses: int
    evictions: int
    device_bytes: int
    host_bytes: int


class PendingBatch(Protocol):
    """A batch that the device is working on."""

    def wait(self) -> list[PageScores]:
        """The scores, in the order of the batch. Raises: DeviceError."""
        ...


class RankingModel(Protocol):
    """A loaded model. `prepare_page` and `prepare` may run in any thread, the others that score in one at a time."""

    @property
    def name(self) -> str:
        """As the checkpoint was asked for; the `name` of `describe`."""
        ...

    def describe(self) -> ModelInfo:
        """What is loaded and how it runs at the moment."""
        ...

    @property
    def batch_limits(self) -> BatchLimits:
        """The largest batch that the device has room for."""
        ...

    def max_window_cost(self, query_characters: int) -> BatchLimits:
        """Tokens and patches of the largest window that a query of that length can ask for."""
        ...

    def warm_up(self) -> object:
        """Score blank pages, in the thread that will score. Raises: ScoreError, DeviceError."""
        ...

    def prepare_page(self, page: PageImage, *, tenant: bytes) -> PreparedPage:
        """A page on the model's grid. Pages of different tenants never share cached features. Raises: PageImageError."""
        ...

    def prepare(self, query: str, pages: Sequence[PreparedPage], keep_ratio: float | None = None) -> PreparedRequest:
        """One prompt over 1 to 20 pages. keep_ratio: None for the configured one.

        Raises: QueryError, PageCountError, KeepRatioError.
        """
        ...

    def start(self, batch: Sequence[PreparedRequest], *, observe: Observe) -> PendingBatch:
        """Queue a batch on the device without waiting for it. Raises: DeviceError."""
        ...

    def encode(self, pages: Sequence[PreparedPage]) -> int:
        """Put page features into the cache ahead of requests; how many it did not have. Raises: DeviceError."""
        ...

    def patches_to_encode(self, request: PreparedRequest) -> int:
        """Patches that the vision pass of this request would have now."""
        ...

    def stage_clock(self) -> StageClock:
        """A clock whose `observe` can be handed to `start`, right for this device."""
        ...

    def cache_counts(self) -> FeatureCacheCounts: ...

    def device_memory(self) -> dict[str, int]:
        """Bytes by kind (allocated, reserved, peak); empty on a CPU."""
        ...
