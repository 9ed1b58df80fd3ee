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
from model.compressor import PageShare, select_tokens, text_similarity
from model.dataflow import PackedSequences, VisualTokens
from model.image_processor import to_patches
from model.qwen3_vl.rope import mrope_cos_sin
from model.qwen3_vl.vision_encoder import lay_out_patches
from model.scorer import score_letters
from model.sequence_packer import PackingPlan, pack_sequences, plan_packing


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
class Encoded:
    """A request whose pages have been through the vision tower."""

    request: PreparedRequest
    plan: PackingPlan
    text: torch.Tensor  # (T, D): embeddings of the prompt's text
    visual: VisualTokens  # DeepStack features not yet merged


@dataclass(frozen=True, slots=True, kw_only=True)
class EverythingPath:
    """Patches made on the CPU as float32; DeepStack, the last layer and the whole head for every token."""

    reranker: Reranker

    @torch.inference_mode()
    def score(self, work: Work, observe: Observe) -> Answer:
        encoded = _encode_float_patches(self.reranker, work, observe)
        network = self.reranker.network
        with observe("vision"):
            visual = network.model.visual.merge_deepstack(encoded.visual)
        with observe("compress"):
            kept = _choose_tokens(encoded)
        with observe("pack"):
            packed = pack_sequences(encoded.text, visual.gather(kept), kept, encoded.plan)
        with observe("language"):
            hidden = self._read_all(packed)
        with observe("head"):
            logits = network.lm_head(hidden)[-1, list(self.reranker.prompts.letter_ids)].float()
        return Answer(logits=tuple(logits.tolist()[: len(work.pages)]), kept=kept)

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
        reranker = self.reranker
        encoded = _encode_float_patches(reranker, work, observe)
        with observe("compress"):
            kept = _choose_tokens(encoded)
            kept_tokens = encoded.visual.gather(kept)
        with observe("vision"):
            kept_tokens = reranker.network.model.visual.merge_deepstack(kept_tokens)
        with observe("pack"):
            packed = pack_sequences(encoded.text, kept_tokens, kept, encoded.plan)
        with observe("language"):
            logits = score_letters(
                reranker.network.model.language_model,
                reranker.letter_rows,
                packed,
                reranker.text_attention,
                reranker.run_decoder_layer,
            )
        return Answer(logits=tuple(logits[0].tolist()[: len(work.pages)]), kept=kept)


def _encode_float_patches(reranker: Reranker, work: Work, observe: Observe) -> Encoded:
    config, compute, network = reranker.model_config, reranker.compute, reranker.network
    with observe("prepare"):
        request = reranker.prepare(work.query, work.pages, work.keep_ratio)
        patches = [to_patches(torch.from_numpy(page.pixels), config.image, torch.float32) for page in request.pages]
        host_patches = torch.cat(patches)
    with observe("upload"):
        device_patches = host_patches.to(compute.device).to(compute.dtype)
        layout = lay_out_patches(request.pages, config.vision).upload(compute.device)
        plan = plan_packing([request]).upload(compute.device)
    with observe("vision"):
        visual = network.model.visual(device_patches, layout, reranker.vision_attention, reranker.run_vision_block)
    with observe("compress"):
        text = network.model.language_model.embed_tokens(plan.text_ids)
    return Encoded(request=request, plan=plan, text=text, visual=visual)


def _choose_tokens(encoded: Encoded) -> torch.Tensor:
    request = encoded.request
    shares = [
        PageShare(visual_tokens=page.visual_token_count, kept=kept)
        for page, kept in zip(request.pages, request.kept_counts, strict=True)
    ]
    similarity = text_similarity(encoded.visual.main, encoded.text[: request.prompt.context_length])
    return select_tokens(similarity, shares)


@dataclass(slots=True)
class Selection:
    """The library's choice of tokens, remembered."""

    kept: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def __call__(self, similarity: torch.Tensor, pages: Sequence[PageShare]) -> torch.Tensor:
        self.kept = select_tokens(similarity, pages)
        return self.kept


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryPath:
    """The library as the service uses it: pages prepared by threads as bytes, everything else in `Reranker.score`."""

    reranker: Reranker
    selection: Selection
    threads: Executor

    def score(self, work: Work, observe: Observe) -> Answer:
        with observe("prepare"):
            pages = list(self.threads.map(self.reranker.prepare_page, work.pages))
        return self.score_prepared(work, pages, observe)

    def score_prepared(self, work: Work, pages: Sequence[PreparedPage], observe: Observe) -> Answer:
        with observe("prepare"):
            request = self.reranker.prepare(work.query, pages, work.keep_ratio)
        [scores] = self.reranker.score([request], observe=observe)
        return Answer(logits=scores.logits, kept=self.selection.kept)


def library_path(reranker: Reranker, threads: Executor) -> LibraryPath:
    selection = Selection()
    return LibraryPath(reranker=replace(reranker, select_tokens=selection), selection=selection, threads=threads)


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
