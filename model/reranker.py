"""The pipeline, stage by stage: page images and a query in, letter logits and an order out.

`prepare` is the CPU's part and the only place where a caller's input can fail; `score` is the device's part for any number of
prepared requests, in two halves where a caller has something to do meanwhile: `start` and `PendingScores.wait`; `rank` is both
for one query. Knows no time, no queue, no HTTP.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image

from model.attention import AttentionKernel, AttentionWorkload, choose_attention, make_page_plans, make_text_plans
from model.checkpoint import find_checkpoint, load_tokenizer, read_model_config
from model.compilation import LayerRunner, choose_runner
from model.compressor import PageShare, kept_count, select_tokens, text_similarity
from model.config import (
    LONGEST_PAGE_EDGE,
    MAX_WINDOW_SIZE,
    ModelConfig,
    RerankerConfig,
    check_keep_ratio,
)
from model.dataflow import (
    Observe,
    PageImage,
    PageScores,
    PreparedPage,
    PreparedRequest,
    Ranking,
    VisualTokens,
    no_observation,
)
from model.device import (
    Compute,
    Download,
    StageClock,
    choose_compute,
    download,
    free_bytes,
    give_back_memory,
    memory_bytes,
    running_on,
    wait_for,
)
from model.errors import ConfigurationError, PageCountError, ScoreError
from model.feature_cache import FeatureCache, FeatureShape
from model.image_processor import prepare_page, smart_resize
from model.network import Network
from model.page_encoder import PageEncoder
from model.prompt import ChatTokenizer, PromptBuilder
from model.quantisation import choose_quantisation, quantise_layers
from model.ranking import order_by_score, scores_by_rank, softmax
from model.scorer import score_letters
from model.sequence_packer import pack_sequences, plan_packing
from model.weights import load_network, parameter_count
from model.windows import WindowStrategy, choose_windows

AnyPage = Image.Image | np.ndarray | PageImage | PreparedPage
SelectTokens = Callable[[torch.Tensor, Sequence[PageShare]], torch.Tensor]
MakeNetwork = Callable[[str, tuple[int, ...]], Network]
"""Quantisation scheme and the letters' vocabulary ids to a network, which may be unquantised and have the whole head."""

ACTIVATION_BYTES = 12 * 2**30
"""Left free on a card, beside the weights, for one batch: about 8 GiB at the default budgets by count, not measured."""

A4_TOKENS = 736
"""Visual tokens of an A4 page at 1024 px."""

_USUAL_RATIOS = (2**0.5, 11 / 8.5, 14 / 8.5, 16 / 9, 16 / 10, 4 / 3, 3 / 2, 1)

MOST_PARAMETERS_BESIDE_A_CARD = 1_000_000_000
"""Of a checkpoint that `auto` runs on the CPU although the machine has a card, which CUDA cannot use."""

HOST_TIER_BYTES = 8 * 2**30
CPU_CACHE_BYTES = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Reranker:
    """A loaded checkpoint. Build it with `from_checkpoint`; `prepare` may run in any thread, `score` in one at a time."""

    config: RerankerConfig
    model_config: ModelConfig
    compute: Compute
    network: Network
    letter_rows: torch.Tensor  # float32 (20, D): the rows of the head that stand for A to T
    prompts: PromptBuilder
    vision_attention: AttentionKernel
    text_attention: AttentionKernel
    run_vision_block: LayerRunner
    run_decoder_layer: LayerRunner
    feature_cache: FeatureCache
    select_tokens: SelectTokens = select_tokens
    quantise: str = "none"  # how the decoder's weights are held: none, fp8 or int8
    quantise_reason: str = ""  # for the log and /info
    name: str = ""  # what the checkpoint was asked for as
    revision: str | None = None  # the hub's commit

    @classmethod
    def from_checkpoint(
        cls, path_or_hub_id: str | Path, config: RerankerConfig | None = None, *, revision: str | None = None
    ) -> Self:
        """Load a folder, a hub id (`revision`: branch, tag or commit), or the bundled `demo`.

        Raises: CheckpointError, ConfigurationError.
        """
        config = config or RerankerConfig()
        compute = choose_compute(config.device, config.dtype)
        checkpoint = find_checkpoint(str(path_or_hub_id), revision=revision)
        model_config = read_model_config(checkpoint.folder)
        refuse_silent_cpu(compute, parameter_count(model_config))
        tokenizer = load_tokenizer(checkpoint.folder)

        def load(quantise: str, letter_ids: tuple[int, ...]) -> Network:
            return load_network(checkpoint.folder, model_config, compute, quantise=quantise, head_rows=letter_ids)

        reranker = cls.assemble(config, model_config, compute, tokenizer, load)
        return replace(reranker, name=checkpoint.name, revision=checkpoint.revision)

    @classmethod
    def assemble(
        cls,
        config: RerankerConfig,
        model_config: ModelConfig,
        compute: Compute,
        tokenizer: ChatTokenizer,
        make_network: MakeNetwork,
    ) -> Self:
        """Put the parts together; the network last, after everything cheap has been checked.

        Raises: ConfigurationError, CheckpointError.
        """
        prompts = PromptBuilder(
            tokenizer,
            image_token_id=model_config.image_token_id,
            vision_start_token_id=model_config.vision_start_token_id,
        )
        vision_attention, text_attention = _choose_kernels(config, model_config, compute)
        quantise, quantise_reason = choose_quantisation(config.quantise, compute)
        network = make_network(quantise, prompts.letter_ids)
        quantise_layers(network.model.language_model.layers, quantise)
        give_back_memory(compute.device)
        return cls(
            config=config,
            model_config=model_config,
            compute=compute,
            network=network,
            letter_rows=network.head_weights(prompts.letter_ids).float(),
            prompts=prompts,
            vision_attention=vision_attention,
            text_attention=text_attention,
            run_vision_block=choose_runner(config.compile, compute, "vision blocks"),
            run_decoder_layer=choose_runner(config.compile, compute, "decoder layers", is_fp8=quantise == "fp8"),
            feature_cache=_make_cache(config, model_config, compute),
            quantise=quantise,
            quantise_reason=quantise_reason,
        )

    def prepare_page(self, page: AnyPage, *, scope: bytes = b"") -> PreparedPage:
        """A page on the model's grid. Pages of different scopes never share cached features. Raises: PageImageError."""
        return page if isinstance(page, PreparedPage) else prepare_page(page, self.model_config.image, scope=scope)

    def prepare(self, query: str, pages: Sequence[AnyPage], keep_ratio: float | None = None) -> PreparedRequest:
        """One prompt over 1 to 20 pages: PIL images, uint8 (height, width, 3) arrays, or prepared pages.

        keep_ratio: share of each page's visual tokens to keep, None the configured one.
        Raises: QueryError, PageCountError, PageImageError, KeepRatioError.
        """
        keep_ratio = self.config.keep_ratio if keep_ratio is None else keep_ratio
        check_keep_ratio(keep_ratio)
        if not 1 <= len(pages) <= MAX_WINDOW_SIZE:
            raise PageCountError(f"{len(pages)} pages were given; one prompt takes 1 to {MAX_WINDOW_SIZE}.")
        prompt = self.prompts.build(query, len(pages))
        prepared = tuple(self.prepare_page(page) for page in pages)
        merge_unit = self.model_config.vision.merge_unit
        return PreparedRequest(
            prompt=prompt,
            pages=prepared,
            kept_counts=tuple(kept_count(page.visual_token_count, keep_ratio) for page in prepared),
            patch_count=sum(page.visual_token_count for page in prepared) * merge_unit,
        )

    def score(self, batch: Sequence[PreparedRequest], *, observe: Observe = no_observation) -> list[PageScores]:
        """Score prepared requests in one vision and one language pass; each gets what it would get alone.

        Raises: DeviceMemoryError, DeviceLostError.
        """
        return self.start(batch, observe=observe).wait()

    @torch.inference_mode()
    def start(self, batch: Sequence[PreparedRequest], *, observe: Observe = no_observation) -> "PendingScores":
        """Queue a batch on the device without waiting for it (a CPU has finished on return).

        Raises: DeviceMemoryError, DeviceLostError.
        """
        cached_pages = tuple(self._count_cached(request) for request in batch)
        with running_on(self.compute.device):
            logits = self._forward(batch, observe) if batch else torch.empty(0)
            return PendingScores(
                batch=tuple(batch), cached_pages=cached_pages, logits=download(logits), device=self.compute.device
            )

    def _count_cached(self, request: PreparedRequest) -> int:
        return sum(page.content_hash in self.feature_cache for page in request.pages)

    def _forward(self, batch: Sequence[PreparedRequest], observe: Observe) -> torch.Tensor:
        """Letter logits (B, letters)."""
        with observe("upload"):
            plan = plan_packing(batch).upload(self.compute.device)
        visual = self.encoder.encode([page for request in batch for page in request.pages], observe)
        with observe("compress"):
            text = self.network.model.language_model.embed_tokens(plan.text_ids)
            kept = self.choose_tokens(visual, text, batch)
            kept_tokens = visual.gather(kept)
        kept_tokens = self.encoder.finish(kept_tokens, observe)
        with observe("pack"):
            packed = pack_sequences(text, kept_tokens, kept, plan)
        with observe("language"):
            return score_letters(
                self.network.model.language_model,
                self.letter_rows,
                packed,
                self.text_attention,
                self.run_decoder_layer,
            )

    @torch.inference_mode()
    def encode(self, pages: Sequence[PreparedPage]) -> int:
        """Put the features of these pages into the cache, so that scoring finds them; how many it did not have.

        Raises: DeviceMemoryError, DeviceLostError.
        """
        unknown = [page for page in pages if page.content_hash not in self.feature_cache]
        if unknown and self.feature_cache.is_on:
            with running_on(self.compute.device):
                self.encoder.encode(unknown, no_observation)
                wait_for(self.compute.device)
        return len(unknown)

    def patches_to_encode(self, request: PreparedRequest) -> int:
        """What the vision pass of this request would cost now: the patches of its pages that the cache does not know."""
        return self.encoder.patches_to_encode(request.pages)

    @property
    def encoder(self) -> PageEncoder:
        """Pages to visual tokens, for `score` and for training."""
        return PageEncoder(
            visual=self.network.model.visual,
            model_config=self.model_config,
            compute=self.compute,
            kernel=self.vision_attention,
            run_block=self.run_vision_block,
            cache=self.feature_cache,
        )

    def rank(
        self,
        query: str,
        images: Sequence[AnyPage],
        keep_ratio: float | None = None,
        *,
        strategy: WindowStrategy = "sliding",
    ) -> Ranking:
        """Order any number of pages by relevance to `query`, through several windows where one is not enough.

        Raises: QueryError, PageCountError, PageImageError, KeepRatioError, ScoreError.
        """
        if not images:
            raise PageCountError("No page was given; at least 1 is needed.")
        pages = [self.prepare_page(image) for image in images]
        windows = choose_windows(strategy, len(pages), window_size=self.config.window_size, stride=self.config.stride)
        answers: list[PageScores] = []
        try:
            turn = next(windows)
            while True:
                scored = [
                    _checked(self.score([self.prepare(query, [pages[index] for index in window], keep_ratio)])[0])
                    for window in turn
                ]
                answers += scored
                turn = windows.send([answer.order for answer in scored])
        except StopIteration as stop:
            return combine_windows(stop.value, answers)

    def warm_up(self) -> PageScores:
        """Score blank A4 pages, so that the first request finds libraries loaded, layers compiled and plans made.

        On a card one page and a whole window, on a CPU two pages. In the thread that will score: plans are kept by thread.
        Raises: ScoreError, DeviceError.
        """
        if self.compute.device.type == "cuda":
            self._make_attention_plans()
        for page_count in (1, MAX_WINDOW_SIZE) if self.compute.device.type == "cuda" else (2,):
            pages = [np.full((LONGEST_PAGE_EDGE, 724, 3), 255 - shade, dtype=np.uint8) for shade in range(page_count)]
            [answer] = self.score([self.prepare("warm-up", pages)])
        self.feature_cache.reset()
        return _checked(answer)

    def _make_attention_plans(self) -> None:
        """The plans of prompts of every length, and of the usual pages by ones to sixteens."""
        text, vision = _text_workload(self.config, self.model_config), _vision_workload(self.model_config)
        make_text_plans(self.text_attention, text, self.compute, self.longest_window(0)[0])
        make_page_plans(self.vision_attention, vision, self.compute, usual_page_lengths(self.model_config))

    def longest_window(self, query_characters: int) -> tuple[int, int]:
        """Language tokens and vision patches of the largest window that a query of that length can ask for."""
        tokens_per_page = (LONGEST_PAGE_EDGE // self.model_config.image.grid_unit) ** 2
        visual_tokens = MAX_WINDOW_SIZE * tokens_per_page
        text_tokens = self.prompts.longest_prompt(MAX_WINDOW_SIZE, query_characters)
        return visual_tokens + text_tokens, visual_tokens * self.model_config.vision.merge_unit

    def device_memory(self) -> dict[str, int]:
        """Bytes by kind (allocated, reserved, peak); empty on a CPU."""
        return memory_bytes(self.compute.device)

    def stage_clock(self) -> StageClock:
        """A clock whose `observe` can be handed to `score`, right for this device."""
        return StageClock(self.compute.device)

    def choose_tokens(self, visual: VisualTokens, text: torch.Tensor, batch: Sequence[PreparedRequest]) -> torch.Tensor:
        """Indices (K,) of the visual tokens to keep, each page compared with its own request's text."""
        shares = [
            PageShare(visual_tokens=page.visual_token_count, kept=kept)
            for request in batch
            for page, kept in zip(request.pages, request.kept_counts, strict=True)
        ]
        visual_parts = torch.split(visual.main, [request.visual_token_count for request in batch])
        text_parts = torch.split(text, [request.prompt.token_count for request in batch])
        similarity = torch.cat(
            [
                text_similarity(tokens, embeddings[: request.prompt.context_length])
                for tokens, embeddings, request in zip(visual_parts, text_parts, batch, strict=True)
            ]
        )
        return self.select_tokens(similarity, shares)


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingScores:
    """A batch that the device is working on."""

    batch: tuple[PreparedRequest, ...]
    cached_pages: tuple[int, ...]  # by request
    logits: Download
    device: torch.device

    @property
    def is_complete(self) -> bool:
        """Whether `wait` would return at once."""
        return self.logits.is_complete

    def wait(self) -> list[PageScores]:
        """The scores, in the order of the batch: its one synchronisation. Raises: DeviceMemoryError, DeviceLostError."""
        with running_on(self.device):
            rows = self.logits.wait().tolist()
        return [
            _page_scores(request, row, cached_pages)
            for request, row, cached_pages in zip(self.batch, rows, self.cached_pages, strict=True)
        ]


def refuse_silent_cpu(compute: Compute, parameters: int) -> None:
    """Raises ConfigurationError where `auto` would run a large model on the CPU of a machine whose card is out of reach."""
    if compute.unused_card is not None and parameters > MOST_PARAMETERS_BESIDE_A_CARD:
        raise ConfigurationError(
            f"device is auto, and {compute.unused_card}. On the CPU a checkpoint of {parameters / 1e9:.1f} billion "
            "parameters takes minutes for a request. Repair the driver or the installation, or choose --device cpu."
        )


def _choose_kernels(
    config: RerankerConfig, model_config: ModelConfig, compute: Compute
) -> tuple[AttentionKernel, AttentionKernel]:
    """For the vision tower and for the decoder, at what a window of A4 pages asks of them."""
    vision, text = _vision_workload(model_config), _text_workload(config, model_config)
    return (
        choose_attention(config.vision_attention or config.attention, vision, compute),
        choose_attention(config.attention, text, compute),
    )


def _vision_workload(model_config: ModelConfig) -> AttentionWorkload:
    vision = model_config.vision
    return AttentionWorkload(
        heads=vision.num_heads,
        key_value_heads=vision.num_heads,
        head_dim=vision.head_dim,
        lengths=(A4_TOKENS * vision.merge_unit,) * MAX_WINDOW_SIZE,
        causal=False,
        is_fused=True,
    )


def usual_page_lengths(model_config: ModelConfig) -> list[int]:
    """Patches of pages of the usual formats, upright or not, at the longest edge: A4, Letter, Legal, and slides and photos."""
    tokens = set()
    for ratio in _USUAL_RATIOS:
        height, width = smart_resize(LONGEST_PAGE_EDGE, round(LONGEST_PAGE_EDGE / ratio), model_config.image)
        tokens.add(height * width // model_config.image.grid_unit**2)
    return [count * model_config.vision.merge_unit for count in sorted(tokens)]


def _text_workload(config: RerankerConfig, model_config: ModelConfig) -> AttentionWorkload:
    text = model_config.text
    return AttentionWorkload(
        heads=text.num_attention_heads,
        key_value_heads=text.num_key_value_heads,
        head_dim=text.head_dim,
        lengths=(kept_count(A4_TOKENS, config.keep_ratio) * MAX_WINDOW_SIZE,),
        causal=True,
    )


def _make_cache(config: RerankerConfig, model_config: ModelConfig, compute: Compute) -> FeatureCache:
    """Of the configured sizes; by default half of a card's memory that weights and one batch leave free.

    Raises: ConfigurationError.
    """
    shape = FeatureShape(
        levels=1 + len(model_config.vision.deepstack_visual_indexes),
        width=model_config.vision.out_hidden_size,
        dtype=compute.dtype,
    )
    free = free_bytes(compute.device)
    on_device = CPU_CACHE_BYTES if free is None else max(0, free - ACTIVATION_BYTES) // 2
    on_host = 0 if free is None else HOST_TIER_BYTES
    return FeatureCache(
        shape,
        device=compute.device,
        device_bytes=on_device if config.feature_cache_gpu_bytes is None else config.feature_cache_gpu_bytes,
        host_bytes=on_host if config.feature_cache_host_bytes is None else config.feature_cache_host_bytes,
    )


def _page_scores(request: PreparedRequest, row: Sequence[float], cached_pages: int) -> PageScores:
    logits = tuple(row[: len(request.pages)])
    return PageScores(
        logits=logits,
        order=order_by_score(logits),
        visual_tokens=request.visual_token_count,
        kept_tokens=request.kept_token_count,
        prompt_tokens=request.token_count,
        cached_pages=cached_pages,
    )


def _checked(answer: PageScores) -> PageScores:
    if not answer.is_finite:
        raise ScoreError(f"The network gave scores that are not finite: {answer.logits}.")
    return answer


def combine_windows(order: Sequence[int], answers: Sequence[PageScores]) -> Ranking:
    """The ranking of all pages from their final order and every window's answer."""
    logits = answers[0].logits if len(answers) == 1 else None
    return Ranking(
        order=tuple(order),
        logits=logits,
        scores=softmax(logits) if logits else scores_by_rank(order),
        windows=tuple(answers),
    )
