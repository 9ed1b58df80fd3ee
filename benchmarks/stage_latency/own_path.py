"""Our way from decoded pages to letter logits with some of its levers off, put together from the library's own stages.

The levers that are on come in the `Reranker` that each path is given: kernels, compiled layers, caches.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace

import torch
from PIL import Image

from model import Observe, PreparedPage, PreparedRequest, Reranker
from model.attention import PackedAttention
from model.compressor import Compressor
from model.dataflow import PackedSequences, VisualTokens
from model.forward_pass import ForwardPass, letter_logits
from model.image_processor import to_patches
from model.qwen3_vl.rope import mrope_cos_sin
from model.qwen3_vl.vision_encoder import lay_out_patches


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One request, when its files have been decoded."""

    query: str
    pages: Sequence[Image.Image]
    keep_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    logits: tuple[float, ...]  # letter logit of each page
    kept: torch.Tensor  # int64 (K,), on the device: the kept visual tokens, pages end to end, ascending


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatPatches:
    """Page features of one request whose patches were made on the CPU as float32."""

    reranker: Reranker
    patches: torch.Tensor  # float32 (P, 1536), on the host
    merges_all: bool  # DeepStack features of every token, before the choice; else of the kept ones, after it

    def encode(self, pages: Sequence[PreparedPage], observe: Observe) -> VisualTokens:
        reranker, compute = self.reranker, self.reranker.compute
        with observe("upload"):
            patches = self.patches.to(compute.device).to(compute.dtype)
            layout = lay_out_patches(pages, reranker.model_config.vision).upload(compute.device)
        with observe("vision"):
            visual = reranker.network.model.visual
            tokens: VisualTokens = visual(patches, layout, reranker.vision_attention, reranker.run_vision_block)
            return visual.merge_deepstack(tokens) if self.merges_all else tokens

    def finish(self, tokens: VisualTokens, observe: Observe) -> VisualTokens:
        if self.merges_all:
            return tokens
        with observe("vision"):
            return self.reranker.network.model.visual.merge_deepstack(tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class EverythingPath:
    """Patches made on the CPU as float32; DeepStack, the last layer and the whole head for every token."""

    reranker: Reranker

    @torch.inference_mode()
    def score(self, work: Work, observe: Observe) -> Answer:
        request, forward_pass = _prepare(self.reranker, work, observe, merges_all=True)
        batch = forward_pass.pack([request], observe)
        with observe("language"):
            hidden = self._read_all(batch.sequences)
        with observe("head"):
            head = self.reranker.network.lm_head
            logits = head(hidden)[-1, list(self.reranker.prompts.letter_ids)].float()
        return Answer(logits=tuple(logits.tolist()[: len(work.pages)]), kept=batch.kept)

    def _read_all(self, packed: PackedSequences) -> torch.Tensor:
        """The normalised hidden states (S, D) of one prompt."""
        decoder, kernel = self.reranker.network.model.language_model, self.reranker.text_attention
        sizes, hidden = decoder.config, packed.embeddings
        cos, sin = mrope_cos_sin(
            packed.positions,
            head_dim=sizes.head_dim,
            theta=sizes.rope_theta,
            sections=sizes.mrope_section,
            dtype=hidden.dtype,
        )
        prompt = kernel.place(packed.cu_seqlens, packed.max_seqlen, hidden.device)
        attend = PackedAttention(kernel=kernel, queries=prompt, keys=prompt, causal=True)
        for index, layer in enumerate(decoder.layers):
            hidden = layer(hidden, cos, sin, attend)
            if index < len(packed.deepstack):
                hidden = hidden.index_add(0, packed.visual_slots, packed.deepstack[index])
        out: torch.Tensor = decoder.norm(hidden)
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class NeededPath:
    """Patches made on the CPU as float32; nothing computed that nobody reads."""

    reranker: Reranker

    @torch.inference_mode()
    def score(self, work: Work, observe: Observe) -> Answer:
        request, forward_pass = _prepare(self.reranker, work, observe, merges_all=False)
        batch = forward_pass.pack([request], observe)
        with observe("language"):
            logits = letter_logits(forward_pass.read(batch.sequences), self.reranker.letter_rows)
        return Answer(logits=tuple(logits[0].tolist()[: len(work.pages)]), kept=batch.kept)


def _prepare(
    reranker: Reranker, work: Work, observe: Observe, *, merges_all: bool
) -> tuple[PreparedRequest, ForwardPass]:
    """The request, and the library's forward pass over its float32 patches."""
    with observe("prepare"):
        request = reranker.prepare(work.query, work.pages, work.keep_ratio)
        image = reranker.model_config.image
        patches = [to_patches(torch.from_numpy(page.pixels), image, torch.float32) for page in request.pages]
        features = FloatPatches(reranker=reranker, patches=torch.cat(patches), merges_all=merges_all)
    return request, replace(reranker.forward_pass, features=features)


@dataclass(slots=True)
class RememberingCompressor:
    """A compressor that remembers its last choice."""

    compressor: Compressor
    kept: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def name(self) -> str:
        return self.compressor.name

    def kept_count(self, visual_tokens: int, keep_ratio: float) -> int:
        return self.compressor.kept_count(visual_tokens, keep_ratio)

    def choose(self, visual: torch.Tensor, text: torch.Tensor, batch: Sequence[PreparedRequest]) -> torch.Tensor:
        self.kept = self.compressor.choose(visual, text, batch)
        return self.kept


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryPath:
    """The library as the service uses it: pages prepared by threads as bytes, everything else in `Reranker.score`."""

    reranker: Reranker
    compressor: RememberingCompressor
    threads: Executor

    def score(self, work: Work, observe: Observe) -> Answer:
        with observe("prepare"):
            pages = list(self.threads.map(self.reranker.prepare_page, work.pages))
        return self.score_prepared(work, pages, observe)

    def score_prepared(self, work: Work, pages: Sequence[PreparedPage], observe: Observe) -> Answer:
        with observe("prepare"):
            request = self.reranker.prepare(work.query, pages, work.keep_ratio)
        [scores] = self.reranker.score([request], observe=observe)
        return Answer(logits=scores.logits, kept=self.compressor.kept)


def library_path(reranker: Reranker, threads: Executor) -> LibraryPath:
    compressor = RememberingCompressor(reranker.compressor)
    return LibraryPath(reranker=replace(reranker, compressor=compressor), compressor=compressor, threads=threads)


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmPath:
    """The library with pages that have been seen before: prepared ones at hand as in the service's page cache, and their
    features in the feature cache from the second call on.
    """

    path: LibraryPath
    prepared: dict[int, PreparedPage] = field(default_factory=dict)  # by the page's identity

    def score(self, work: Work, observe: Observe) -> Answer:
        pages = [self._prepared(page) for page in work.pages]
        return self.path.score_prepared(work, pages, observe)

    def _prepared(self, page: Image.Image) -> PreparedPage:
        if id(page) not in self.prepared:
            self.prepared[id(page)] = self.path.reranker.prepare_page(page)
        return self.prepared[id(page)]
