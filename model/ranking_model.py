"""The protocol between the service and the model, and the records that describe a loaded model.

`Reranker` implements the protocol; `FakeRankingModel` is a stand-in for tests and benchmarks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from model.dataflow import Observe, PageImage, PageScores, PreparedPage, PreparedRequest, no_observation
from model.device import StageClock
from model.memory_plan import BatchLimits
from model.pages.text_page_format import TextPageFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionInfo:
    """The attention kernel of one tower."""

    kernel: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersInfo:
    """The current way of running one tower's layers. A failure of the compiler turns compilation off."""

    is_compiled: bool
    reason: str
    compile_seconds: float | None  # of the first compiled call; None before it and for uncompiled layers


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """The loaded checkpoint and its way of running, for descriptions, logs and metrics."""

    name: str  # as passed when the checkpoint was loaded
    revision: str | None  # the hub's commit; None for a folder
    device: str  # cpu, or cuda:N
    device_name: str  # the card's product name, or cpu
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
    feature_cache_device_bytes: int  # capacity of the feature cache on the device
    feature_cache_host_bytes: int  # capacity of the feature cache in host memory


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureCacheCounts:
    """Events of the feature cache since the warm-up, and the bytes in use now."""

    hits: int
    misses: int
    evictions: int
    device_bytes: int
    host_bytes: int


BetweenLayers = Callable[[], None]
"""Called while a batch is being computed. It raises nothing."""


class PendingBatch(Protocol):
    """A batch that is running on the device."""

    def wait(self) -> list[PageScores]:
        """The scores, in the order of the batch. Raises: DeviceError."""
        ...


class RankingModel(Protocol):
    """A loaded model.

    `prepare_page` and `prepare` are thread-safe. Only one thread at a time may call `warm_up`, `start` and `encode`.
    """

    @property
    def name(self) -> str:
        """The checkpoint's name as passed when it was loaded; equals the `name` of `describe`."""
        ...

    def describe(self) -> ModelInfo:
        """The loaded checkpoint and its current way of running."""
        ...

    @property
    def text_page(self) -> TextPageFormat:
        """The pages on which the checkpoint reads text."""
        ...

    @property
    def batch_limits(self) -> BatchLimits:
        """The largest batch for which the device has memory."""
        ...

    def max_window_cost(self, query_characters: int) -> BatchLimits:
        """Tokens and patches of the largest possible window for a query of that many characters."""
        ...

    def warm_up(self, *, observe: Observe = no_observation) -> PageScores:
        """Score blank pages; the scores of the last pass, which alone is observed. Call it in the thread that will score.

        Raises: ScoreError, DeviceError.
        """
        ...

    def prepare_page(self, page: PageImage, *, tenant: bytes) -> PreparedPage:
        """Fit a page to the model's grid. Pages of different tenants never share cached features. Raises: PageImageError."""
        ...

    def prepare(self, query: str, pages: Sequence[PreparedPage], keep_ratio: float | None = None) -> PreparedRequest:
        """Build one prompt over 1 to 20 pages. keep_ratio: share of visual tokens to keep; None: the configured share.

        Raises: QueryError, PageCountError, KeepRatioError.
        """
        ...

    def start(
        self, batch: Sequence[PreparedRequest], *, observe: Observe, between_layers: BetweenLayers | None = None
    ) -> PendingBatch:
        """Queue a batch on the device without waiting for it.

        between_layers: called before most layers, and within them unless they are compiled, where the batch is computed within
        this call, on a CPU. It may score other batches meanwhile.
        Raises: DeviceError.
        """
        ...

    def encode(self, pages: Sequence[PreparedPage], *, between_layers: BetweenLayers | None = None) -> int:
        """Cache page features ahead of requests. Returns the number of pages that were not cached.

        between_layers: see `start`.
        Raises: DeviceError.
        """
        ...

    def patches_to_encode(self, request: PreparedRequest) -> int:
        """The current cost of this request's vision pass: patches of its pages that are not cached."""
        ...

    def is_encoded(self, page: PreparedPage) -> bool:
        """Whether the page's features are in the cache at present, so that a window with it need not encode it."""
        ...

    def pages_to_encode(self, request: PreparedRequest) -> Sequence[PreparedPage]:
        """Different pages of this request that are not cached, which `encode` could cache; none if they would not stay."""
        ...

    def stage_clock(self) -> StageClock:
        """A new clock for this device; pass its `observe` to `start`."""
        ...

    def cache_counts(self) -> FeatureCacheCounts:
        """Hits, misses, evictions and bytes of the feature cache."""
        ...

    def device_memory(self) -> dict[str, int]:
        """Bytes by kind (allocated, reserved, peak); empty on a CPU."""
        ...
