"""The pipeline, stage by stage: page images and a query in, letter logits and an order out.

`prepare` is the CPU's part and the only place where a caller's input can fail; `score` is the device's part for any number of
prepared requests; `rank` is both for one query. Knows no time, no queue, no HTTP.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image

from model.attention import AttentionKernel, choose_attention
from model.checkpoint import find_checkpoint, load_tokenizer, read_model_config
from model.compressor import PageShare, kept_count, select_tokens, text_similarity
from model.config import (
    LONGEST_PAGE_EDGE,
    MAX_WINDOW_SIZE,
    ModelConfig,
    RerankerConfig,
    TextConfig,
    VisionConfig,
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
from model.device import Compute, StageClock, choose_compute, host_buffer, memory_bytes, running_on, upload
from model.errors import PageCountError, ScoreError
from model.image_processor import prepare_page, to_patches
from model.network import Network
from model.prompt import ChatTokenizer, PromptBuilder
from model.ranking import order_by_score, scores_by_rank, softmax
from model.scorer import score_letters
from model.sequence_packer import pack_sequences, plan_packing
from model.vision_encoder import PatchLayout, lay_out_patches
from model.weights import load_network
from model.windows import sliding_windows

AnyPage = Image.Image | np.ndarray | PageImage | PreparedPage
SelectTokens = Callable[[torch.Tensor, Sequence[PageShare]], torch.Tensor]


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
    select_tokens: SelectTokens = select_tokens
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
        tokenizer = load_tokenizer(checkpoint.folder)
        reranker = cls.assemble(
            config, model_config, compute, tokenizer, lambda: load_network(checkpoint.folder, model_config, compute)
        )
        return replace(reranker, name=checkpoint.name, revision=checkpoint.revision)

    @classmethod
    def assemble(
        cls,
        config: RerankerConfig,
        model_config: ModelConfig,
        compute: Compute,
        tokenizer: ChatTokenizer,
        make_network: Callable[[], Network],
    ) -> Self:
        """Put the parts together; the network last, after everything cheap has been checked.

        Raises: ConfigurationError, CheckpointError.
        """
        vision_attention = _choose_kernel(config.vision_attention or config.attention, model_config.vision, compute)
        text_attention = _choose_kernel(config.attention, model_config.text, compute)
        prompts = PromptBuilder(
            tokenizer,
            image_token_id=model_config.image_token_id,
            vision_start_token_id=model_config.vision_start_token_id,
        )
        network = make_network()
        return cls(
            config=config,
            model_config=model_config,
            compute=compute,
            network=network,
            letter_rows=network.lm_head.weight[list(prompts.letter_ids)].float(),
            prompts=prompts,
            vision_attention=vision_attention,
            text_attention=text_attention,
        )

    def prepare_page(self, page: AnyPage) -> PreparedPage:
        """A page on the model's grid. Raises: PageImageError."""
        return page if isinstance(page, PreparedPage) else prepare_page(page, self.model_config.image)

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

    @torch.inference_mode()
    def score(self, batch: Sequence[PreparedRequest], *, observe: Observe = no_observation) -> list[PageScores]:
        """Score prepared requests in one vision and one language pass; each gets what it would get alone.

        Raises: DeviceMemoryError, DeviceLostError.
        """
        if not batch:
            return []
        with running_on(self.compute.device):
            return self._score(batch, observe)

    def _score(self, batch: Sequence[PreparedRequest], observe: Observe) -> list[PageScores]:
        with observe("upload"):
            pixels = self._upload_pixels(batch)
            layout = self._lay_out_patches(batch)
            plan = plan_packing(batch).upload(self.compute.device)
        with observe("vision"):
            visual = self._encode_pages(pixels, layout, batch)
        with observe("compress"):
            text = self.network.model.language_model.embed_tokens(plan.text_ids)
            kept = self._choose_tokens(visual, text, batch)
        with observe("pack"):
            packed = pack_sequences(text, visual, kept, plan)
        with observe("language"):
            logits = score_letters(self.network.model.language_model, self.letter_rows, packed, self.text_attention)
        return _page_scores(batch, logits.cpu())  # the batch's one synchronisation

    def rank(self, query: str, images: Sequence[AnyPage], keep_ratio: float | None = None) -> Ranking:
        """Order any number of pages by relevance to `query`, through sliding windows where one is not enough.

        Raises: QueryError, PageCountError, PageImageError, KeepRatioError, ScoreError.
        """
        if not images:
            raise PageCountError("No page was given; at least 1 is needed.")
        pages = [self.prepare_page(image) for image in images]
        windows = sliding_windows(len(pages), window_size=self.config.window_size, stride=self.config.stride)
        answers: list[PageScores] = []
        try:
            window = next(windows)
            while True:
                [answer] = self.score([self.prepare(query, [pages[index] for index in window], keep_ratio)])
                answers.append(_checked(answer))
                window = windows.send(answer.order)
        except StopIteration as stop:
            return combine_windows(stop.value, answers)

    def warm_up(self) -> PageScores:
        """Score two blank A4 pages, so that the first request finds libraries loaded. Raises: ScoreError, DeviceError."""
        page = np.full((LONGEST_PAGE_EDGE, 724, 3), 255, dtype=np.uint8)
        [answer] = self.score([self.prepare("warm-up", [page, page])])
        return _checked(answer)

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

    def _upload_pixels(self, batch: Sequence[PreparedRequest]) -> torch.Tensor:
        """The pages' pixels end to end, uint8, in one copy."""
        pages = [page.pixels for request in batch for page in request.pages]
        buffer = host_buffer(sum(page.size for page in pages), torch.uint8, self.compute.device)
        np.concatenate([page.reshape(-1) for page in pages], out=buffer.numpy())
        return upload(buffer, self.compute.device)

    def _lay_out_patches(self, batch: Sequence[PreparedRequest]) -> PatchLayout:
        pages = [page for request in batch for page in request.pages]
        return lay_out_patches(pages, self.model_config.vision).upload(self.compute.device)

    def _encode_pages(
        self, pixels: torch.Tensor, layout: PatchLayout, batch: Sequence[PreparedRequest]
    ) -> VisualTokens:
        pages = [page for request in batch for page in request.pages]
        parts = torch.split(pixels, [page.pixels.size for page in pages])
        patches = [
            to_patches(part.view(page.pixels.shape), self.model_config.image, self.compute.dtype)
            for part, page in zip(parts, pages, strict=True)
        ]
        encoded: VisualTokens = self.network.model.visual(torch.cat(patches), layout, self.vision_attention)
        return encoded

    def _choose_tokens(
        self, visual: VisualTokens, text: torch.Tensor, batch: Sequence[PreparedRequest]
    ) -> torch.Tensor:
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


def _choose_kernel(name: str, tower: VisionConfig | TextConfig, compute: Compute) -> AttentionKernel:
    return choose_attention(name, device=compute.device, dtype=compute.dtype, head_dim=tower.head_dim)


def _page_scores(batch: Sequence[PreparedRequest], logits: torch.Tensor) -> list[PageScores]:
    answers = []
    for request, row in zip(batch, logits.tolist(), strict=True):
        own = tuple(row[: len(request.pages)])
        answers.append(
            PageScores(
                logits=own,
                order=order_by_score(own),
                visual_tokens=request.visual_token_count,
                kept_tokens=request.kept_token_count,
                prompt_tokens=request.token_count,
            )
        )
    return answers


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
