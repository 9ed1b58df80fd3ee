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

from model.attention import AttentionKernel
from model.checkpoint import find_checkpoint, load_tokenizer, read_model_config
from model.compilation import LayerRunner, choose_runner
from model.compressor import PageShare, kept_count, select_tokens, text_similarity
from model.config import (
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
    give_back_memory,
    memory_bytes,
    running_on,
    staged,
    wait_for,
)
from model.errors import PageCountError, ScoreError
from model.feature_cache import FeatureCache
from model.image_processor import prepare_page
from model.memory_plan import BatchLimits, MemoryPlan
from model.page_encoder import PageEncoder
from model.pages.image import LONGEST_PAGE_EDGE
from model.placement import choose_kernels, longest_window, make_attention_plans, make_cache, place, refuse_silent_cpu
from model.prompt import ChatTokenizer, PromptBuilder
from model.quantisation import quantise_layers
from model.qwen3_vl.network import Network
from model.qwen3_vl.weights import build_network, expected_shapes, load_network, parameter_count
from model.ranking import order_by_score, scores_by_rank, softmax
from model.scorer import score_letters
from model.sequence_packer import pack_sequences, plan_packing
from model.windows import WindowStrategy, choose_windows

AnyPage = Image.Image | np.ndarray | PageImage | PreparedPage
SelectTokens = Callable[[torch.Tensor, Sequence[PageShare]], torch.Tensor]
MakeNetwork = Callable[[str, tuple[int, ...]], Network]
"""Quantisation scheme and the letters' vocabulary ids to a network, which may be unquantised and have the whole head."""


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
    batch_limits: BatchLimits
    select_tokens: SelectTokens = select_tokens
    quantise: str = "none"  # how the decoder's weights are held: none, fp8 or int8
    quantise_reason: str = ""  # for the log and /info
    memory: MemoryPlan | None = None  # None on a CPU
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
        longest = longest_window(prompts, model_config, config.max_query_characters)
        placement = place(config, model_config, expected_shapes(build_network(model_config)), compute, longest)
        vision_attention, text_attention = choose_kernels(config, model_config, compute)
        network = make_network(placement.quantise, prompts.letter_ids)
        quantise_layers(network.model.language_model.layers, placement.quantise)
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
            run_decoder_layer=choose_runner(
                config.compile, compute, "decoder layers", is_fp8=placement.quantise == "fp8"
            ),
            feature_cache=make_cache(config, model_config, compute, placement.memory),
            batch_limits=placement.batch,
            quantise=placement.quantise,
            quantise_reason=placement.quantise_reason,
            memory=placement.memory,
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
        prepared = tuple(self._stage(self.prepare_page(page)) for page in pages)
        merge_unit = self.model_config.vision.merge_unit
        return PreparedRequest(
            prompt=prompt,
            pages=prepared,
            kept_counts=tuple(kept_count(page.visual_token_count, keep_ratio) for page in prepared),
            patch_count=sum(page.visual_token_count for page in prepared) * merge_unit,
        )

    def _stage(self, page: PreparedPage) -> PreparedPage:
        """With its pixels where the card reads them, so that the scoring thread need not copy them; not for known features."""
        if self.compute.device.type == "cpu" or page.content_hash in self.feature_cache:
            return page
        return replace(page, staged=staged(torch.from_numpy(page.pixels), self.compute.device))

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
        del visual  # up to 1 GiB that the decoder's activations can have
        kept_tokens = self.encoder.finish(kept_tokens, observe)
        with observe("pack"):
            packed = pack_sequences(text, kept_tokens, kept, plan)
        del text, kept_tokens
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
            kernels = self.vision_attention, self.text_attention
            longest = self.longest_window(0).tokens
            make_attention_plans(self.config, self.model_config, self.compute, kernels, longest)
        for page_count in (1, MAX_WINDOW_SIZE) if self.compute.device.type == "cuda" else (2,):
            pages = [np.full((LONGEST_PAGE_EDGE, 724, 3), 255 - shade, dtype=np.uint8) for shade in range(page_count)]
            [answer] = self.score([self.prepare("warm-up", pages)])
        self.feature_cache.reset()
        return _checked(answer)

    def longest_window(self, query_characters: int) -> BatchLimits:
        """The largest window that a query of that length can ask for."""
        return longest_window(self.prompts, self.model_config, query_characters)

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
