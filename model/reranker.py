"""The reranking pipeline: page images and a query in, letter logits and an order of the pages out.

`prepare` runs on the CPU and is the only step that can reject a caller's input. `score` runs any number of prepared requests
on the device; `start` and `PendingScores.wait` are its two halves, for callers with other work to do meanwhile. `rank` prepares
and scores one query. Queues, deadlines and HTTP belong to the caller.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from model.attention import AttentionKernel, PackedAttention
from model.compilation import LayerRunner, RunLayer
from model.compressor import Compressor, SimilarityCompressor
from model.config import MAX_WINDOW_SIZE, ModelConfig, RerankerConfig, check_keep_ratio
from model.dataflow import (
    Observe,
    PageImage,
    PageScores,
    PreparedPage,
    PreparedRequest,
    Ranking,
    no_observation,
)
from model.device import Compute, Download, StageClock, download, memory_bytes, running_on, staged, wait_for
from model.errors import PageCountError, ScoreError
from model.feature_cache import FeatureCache
from model.forward_pass import ForwardPass, letter_logits
from model.image_processor import prepare_page
from model.kept_tokens import KeptTokens
from model.memory_plan import BatchLimits, MemoryPlan
from model.page_encoder import PageEncoder
from model.pages.image import LONGEST_PAGE_EDGE
from model.pages.text_page_format import TextPageFormat
from model.placement import make_attention_plans, max_window_cost
from model.prompt import PromptBuilder
from model.qwen3_vl.network import Network
from model.ranking import order_by_score, scores_by_rank, softmax
from model.ranking_model import AttentionInfo, BetweenLayers, FeatureCacheCounts, LayersInfo, ModelInfo
from model.windows import WindowStrategy, choose_windows

AnyPage = Image.Image | np.ndarray | PageImage | PreparedPage


@dataclass(frozen=True, slots=True, kw_only=True)
class Reranker:
    """A loaded checkpoint, and the service's `RankingModel`. Build it with `from_checkpoint`.

    `prepare_page` and `prepare` are thread-safe. Only one thread at a time may call `score`, `start`, `encode` and `rank`.
    """

    config: RerankerConfig
    model_config: ModelConfig
    compute: Compute
    network: Network
    letter_rows: torch.Tensor  # float32 (20, D): rows of the vocabulary head for A to T
    prompts: PromptBuilder
    vision_attention: AttentionKernel
    text_attention: AttentionKernel
    run_vision_block: LayerRunner
    run_decoder_layer: LayerRunner
    feature_cache: FeatureCache
    batch_limits: BatchLimits
    compressor: Compressor = field(default_factory=SimilarityCompressor)
    quantise: str = "none"  # format of the decoder's weights: none (unquantised), fp8 or int8
    quantise_reason: str = ""
    memory: MemoryPlan | None = None  # None on a CPU
    name: str = ""  # as passed to `from_checkpoint`
    revision: str | None = None  # the hub's commit

    @staticmethod
    def from_checkpoint(
        path_or_hub_id: str | Path, config: RerankerConfig | None = None, *, revision: str | None = None
    ) -> "Reranker":
        """Load a folder, a hub id (`revision`: branch, tag or commit), or the bundled `demo`.

        Raises: CheckpointError, ConfigurationError.
        """
        from model.loading import load_reranker  # here, because `model.loading` imports this module

        return load_reranker(path_or_hub_id, config, revision=revision)

    def describe(self) -> ModelInfo:
        """The loaded checkpoint and its current way of running."""
        cache = self.feature_cache
        return ModelInfo(
            name=self.name,
            revision=self.revision,
            device=str(self.compute.device),
            device_name=self.compute.description,
            dtype=self.compute.dtype_name,
            compute_reason=self.compute.reason,
            vision_attention=_attention_info(self.vision_attention),
            text_attention=_attention_info(self.text_attention),
            vision_layers=_layers_info(self.run_vision_block),
            text_layers=_layers_info(self.run_decoder_layer),
            compressor=self.compressor.name,
            quantise=self.quantise,
            quantise_reason=self.quantise_reason,
            memory_plan=None if self.memory is None else self.memory.describe(),
            feature_cache_device_bytes=cache.device_tier.byte_limit,
            feature_cache_host_bytes=cache.host_tier.byte_limit,
        )

    @property
    def text_page(self) -> TextPageFormat:
        """The pages on which the checkpoint reads text."""
        return self.model_config.image.text_page

    def prepare_page(self, page: AnyPage, *, tenant: bytes = b"") -> PreparedPage:
        """Fit a page to the model's grid. Pages of different tenants never share cached features. Raises: PageImageError."""
        return page if isinstance(page, PreparedPage) else prepare_page(page, self.model_config.image, tenant=tenant)

    def prepare(self, query: str, pages: Sequence[AnyPage], keep_ratio: float | None = None) -> PreparedRequest:
        """Build one prompt over 1 to 20 pages: PIL images, uint8 (height, width, 3) arrays, or prepared pages.

        keep_ratio: share of each page's visual tokens to keep; None: the configured share.
        Raises: QueryError, PageCountError, PageImageError, KeepRatioError.
        """
        keep_ratio = self.config.keep_ratio if keep_ratio is None else keep_ratio
        check_keep_ratio(keep_ratio)
        if not 1 <= len(pages) <= MAX_WINDOW_SIZE:
            raise PageCountError(f"{len(pages)} pages were given; one prompt takes 1 to {MAX_WINDOW_SIZE} pages.")
        prompt = self.prompts.build(query, len(pages))
        prepared = tuple(self._with_staged_pixels(self.prepare_page(page)) for page in pages)
        merge_unit = self.model_config.vision.merge_unit
        return PreparedRequest(
            prompt=prompt,
            pages=prepared,
            kept_counts=tuple(self.compressor.kept_count(page.visual_token_count, keep_ratio) for page in prepared),
            patch_count=sum(page.visual_token_count for page in prepared) * merge_unit,
        )

    def _with_staged_pixels(self, page: PreparedPage) -> PreparedPage:
        """Copy the pixels to page-locked memory here, to save the scoring thread the time, unless the features are cached."""
        if self.compute.device.type == "cpu" or page.content_hash in self.feature_cache:
            return page
        return replace(page, staged=staged(torch.from_numpy(page.pixels), self.compute.device))

    def score(self, batch: Sequence[PreparedRequest], *, observe: Observe = no_observation) -> list[PageScores]:
        """Score prepared requests in one vision pass and one language pass. Requests do not influence each other's scores.

        Raises: DeviceMemoryError, DeviceLostError.
        """
        return self.start(batch, observe=observe).wait()

    @torch.inference_mode()
    def start(
        self,
        batch: Sequence[PreparedRequest],
        *,
        observe: Observe = no_observation,
        between_layers: BetweenLayers | None = None,
    ) -> "PendingScores":
        """Queue a batch on the device and return without waiting. On a CPU the batch is complete on return.

        between_layers: see `RankingModel.start`.
        Raises: DeviceMemoryError, DeviceLostError.
        """
        cached_pages = tuple(
            sum(page.content_hash in self.feature_cache for page in request.pages) for request in batch
        )
        with running_on(self.compute.device):
            return PendingScores(
                batch=tuple(batch),
                cached_pages=cached_pages,
                values=download(self._scored(batch, observe, between_layers) if batch else torch.empty(0)),
                device=self.compute.device,
            )

    def _scored(
        self, batch: Sequence[PreparedRequest], observe: Observe, between_layers: BetweenLayers | None
    ) -> torch.Tensor:
        """Logits, float32 (B, letters); with the selection behind them, as `PendingScores` reads it, where it is asked for."""
        stages = replace(
            self.forward_pass,
            features=self._pausing_encoder(between_layers),
            run_layer=self._pausing(self.run_decoder_layer, between_layers),
        )
        packed = stages.pack(batch, observe)
        logits = letter_logits(stages.read_observed(packed, observe), self.letter_rows)
        if not _reports_kept_tokens(batch):
            return logits
        visual_tokens = sum(request.visual_token_count for request in batch)
        mask = torch.zeros(visual_tokens, dtype=torch.uint8, device=packed.kept.device)
        mask.index_fill_(0, packed.kept, 1)
        return torch.cat([logits.flatten().view(torch.uint8), mask])

    def _pausing(self, run_layer: LayerRunner, between_layers: BetweenLayers | None) -> RunLayer:
        if between_layers is None or self.compute.device.type != "cpu":
            return run_layer
        return _interrupted(run_layer, between_layers)

    def _pausing_encoder(self, between_layers: BetweenLayers | None) -> PageEncoder:
        return replace(self.encoder, run_block=self._pausing(self.run_vision_block, between_layers))

    @torch.inference_mode()
    def encode(self, pages: Sequence[PreparedPage], *, between_layers: BetweenLayers | None = None) -> int:
        """Encode the pages whose features are not in the cache and cache them. Returns the number of such pages.

        between_layers: see `start`.
        Raises: DeviceMemoryError, DeviceLostError.
        """
        unknown = [page for page in pages if page.content_hash not in self.feature_cache]
        if unknown and self.feature_cache.is_on:
            with running_on(self.compute.device):
                self._pausing_encoder(between_layers).encode(unknown, no_observation)
                wait_for(self.compute.device)
        return len(unknown)

    def patches_to_encode(self, request: PreparedRequest) -> int:
        """The current cost of this request's vision pass: the patches of those of its pages that are not in the cache."""
        return self.encoder.patches_to_encode(request.pages)

    def is_encoded(self, page: PreparedPage) -> bool:
        """Whether the page's features are in the cache at present."""
        return page.content_hash in self.feature_cache

    def pages_to_encode(self, request: PreparedRequest) -> Sequence[PreparedPage]:
        """Different pages of this request that are not cached, which `encode` could cache.

        None where all of its pages together would fill over half of the cache's larger tier: others would soon replace them.
        """
        token_count = sum(page.visual_token_count for page in request.pages)
        tiers = self.feature_cache.device_tier, self.feature_cache.host_tier
        if not any(tier.has_room_for(2 * token_count) for tier in tiers):
            return ()
        pages = {page.content_hash: page for page in request.pages}
        return [page for key, page in pages.items() if key not in self.feature_cache]

    @property
    def encoder(self) -> PageEncoder:
        """The stage from pages to visual tokens."""
        return PageEncoder(
            visual=self.network.model.visual,
            model_config=self.model_config,
            compute=self.compute,
            kernel=self.vision_attention,
            run_block=self.run_vision_block,
            cache=self.feature_cache,
        )

    @property
    def forward_pass(self) -> ForwardPass:
        """All stages in order, for `score` and for training."""
        return ForwardPass(
            features=self.encoder,
            compressor=self.compressor,
            language_model=self.network.model.language_model,
            kernel=self.text_attention,
            run_layer=self.run_decoder_layer,
            device=self.compute.device,
        )

    def rank(
        self,
        query: str,
        pages: Sequence[AnyPage],
        keep_ratio: float | None = None,
        *,
        strategy: WindowStrategy = "sliding",
    ) -> Ranking:
        """Order any number of pages by relevance to `query`, in several windows if one is too small.

        Raises: QueryError, PageCountError, PageImageError, KeepRatioError, ScoreError.
        """
        if not pages:
            raise PageCountError("No page was given; at least 1 is needed.")
        prepared = [self.prepare_page(page) for page in pages]
        plan = choose_windows(strategy, len(prepared), window_size=self.config.window_size, stride=self.config.stride)
        answers: list[PageScores] = []
        while turn := plan.turn:
            scored = [
                require_finite(self.score([self.prepare(query, [prepared[index] for index in window], keep_ratio)])[0])
                for window in turn
            ]
            answers += scored
            plan.submit([answer.order for answer in scored])
        return combine_windows(plan.order, answers)

    def warm_up(self, *, observe: Observe = no_observation) -> PageScores:
        """Score blank A4 pages, to load libraries, compile layers and make cuDNN plans before the first request.

        Call it in the thread that will score, because cuDNN keeps plans per thread. On CUDA it scores one page and a full
        window, on a CPU two pages. Only the last pass is observed, and its scores are returned.
        Raises: ScoreError, DeviceError.
        """
        if self.compute.device.type == "cuda":
            kernels = self.vision_attention, self.text_attention
            longest = self.max_window_cost(0).tokens
            make_attention_plans(self.config, self.model_config, self.compute, kernels, longest)
        passes = (1, MAX_WINDOW_SIZE) if self.compute.device.type == "cuda" else (2,)
        for page_count in passes:
            pages = [np.full((LONGEST_PAGE_EDGE, 724, 3), 255 - shade, dtype=np.uint8) for shade in range(page_count)]
            is_last = page_count == passes[-1]
            [answer] = self.score([self.prepare("warm-up", pages)], observe=observe if is_last else no_observation)
        self.feature_cache.reset()
        return require_finite(answer)

    def max_window_cost(self, query_characters: int) -> BatchLimits:
        """Tokens and patches of the largest possible window for a query of that many characters."""
        return max_window_cost(self.prompts, self.model_config, query_characters)

    def device_memory(self) -> dict[str, int]:
        """Bytes by kind (allocated, reserved, peak); empty on a CPU."""
        return memory_bytes(self.compute.device)

    def stage_clock(self) -> StageClock:
        """A new clock for this device; pass its `observe` to `score` or `start`."""
        return StageClock(self.compute.device)

    def cache_counts(self) -> FeatureCacheCounts:
        """Hits, misses, evictions and bytes of the feature cache."""
        cache = self.feature_cache
        return FeatureCacheCounts(
            hits=cache.hits,
            misses=cache.misses,
            evictions=cache.evictions,
            device_bytes=cache.device_tier.byte_count,
            host_bytes=cache.host_tier.byte_count,
        )


def _interrupted(run_layer: LayerRunner, between_layers: BetweenLayers) -> RunLayer:
    """Runs layers, and calls `between_layers` before each; where they are not compiled, also before and after its attention."""

    def run(
        layer: nn.Module, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: PackedAttention
    ) -> torch.Tensor:
        between_layers()
        if not run_layer.is_compiled:
            attend = replace(attend, kernel=_interrupted_kernel(attend.kernel, between_layers))
        return run_layer(layer, hidden, cos, sin, attend)

    return run


def _interrupted_kernel(kernel: AttentionKernel, between_layers: BetweenLayers) -> AttentionKernel:
    def attend(*arguments: Any, **named: Any) -> torch.Tensor:
        between_layers()
        attended = kernel.attend(*arguments, **named)
        between_layers()
        return attended

    return replace(kernel, attend=attend)


def _attention_info(kernel: AttentionKernel) -> AttentionInfo:
    return AttentionInfo(kernel=kernel.name, reason=kernel.reason)


def _layers_info(runner: LayerRunner) -> LayersInfo:
    return LayersInfo(is_compiled=runner.is_compiled, reason=runner.reason, compile_seconds=runner.seconds)


def _reports_kept_tokens(batch: Sequence[PreparedRequest]) -> bool:
    return any(request.reports_kept_tokens for request in batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingScores:
    """A batch that is running on the device."""

    batch: tuple[PreparedRequest, ...]
    cached_pages: tuple[int, ...]  # for each request
    values: Download
    """float32 (B, letters), the logits. Where a request reports its kept tokens: their bytes, and then uint8 (V,), which has 1
    for each kept token, in one tensor, because a second copy would be a second wait."""
    device: torch.device

    @property
    def is_complete(self) -> bool:
        """Whether `wait` would return immediately."""
        return self.values.is_complete

    def wait(self) -> list[PageScores]:
        """The scores in the order of the batch. This is the only synchronisation of a batch.

        Raises: DeviceMemoryError, DeviceLostError.
        """
        with running_on(self.device):
            logits_of_batch, masks = self._split(self.values.wait())
        answers: list[PageScores] = []
        rows = logits_of_batch.tolist()
        for request, row, mask, cached_pages in zip(self.batch, rows, masks, self.cached_pages, strict=True):
            logits = tuple(row[: len(request.pages)])
            answers.append(
                PageScores(
                    logits=logits,
                    order=order_by_score(logits),
                    visual_tokens=request.visual_token_count,
                    kept_tokens=request.kept_token_count,
                    prompt_tokens=request.token_count,
                    cached_pages=cached_pages,
                    kept=None if mask is None else _kept_tokens(request, mask),
                )
            )
        return answers

    def _split(self, values: torch.Tensor) -> tuple[torch.Tensor, Sequence[np.ndarray | None]]:
        """Logits, float32 (B, letters); for each request uint8 (visual tokens,), or None where it does not report them."""
        if not _reports_kept_tokens(self.batch):
            return values, [None] * len(self.batch)
        counts = [request.visual_token_count for request in self.batch]
        logits, mask = torch.split(values, [len(values) - sum(counts), sum(counts)])
        masks = [
            part.numpy() if request.reports_kept_tokens else None
            for request, part in zip(self.batch, torch.split(mask, counts), strict=True)
        ]
        return logits.view(torch.float32).view(len(self.batch), -1), masks


def _kept_tokens(request: PreparedRequest, mask: np.ndarray) -> tuple[KeptTokens, ...]:
    """Page by page. mask: uint8 (visual tokens,) of the request."""
    ends = np.cumsum([page.visual_token_count for page in request.pages])
    return tuple(
        KeptTokens(rows=page.rows, columns=page.columns, mask=mask[end - page.visual_token_count : end].tobytes())
        for page, end in zip(request.pages, ends, strict=True)
    )


def require_finite(answer: PageScores) -> PageScores:
    """Return `answer` unchanged. Raises: ScoreError for NaN or infinity."""
    if not answer.is_finite:
        raise ScoreError(
            f"The network returned scores that are not finite: {answer.logits}. Check the checkpoint, or choose dtype float32."
        )
    return answer


def combine_windows(order: Sequence[int], answers: Sequence[PageScores]) -> Ranking:
    """The ranking of all pages, from their final order and the answers of all windows, which need not have every page."""
    is_in_one_window = len(answers) == 1 and len(answers[0].logits) == len(order)
    logits = answers[0].logits if is_in_one_window else None
    return Ranking(
        order=tuple(order),
        logits=logits,
        scores=softmax(logits) if logits else scores_by_rank(order),
        windows=tuple(answers),
    )
