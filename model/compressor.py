"""Query-image early interaction: keeps, on each page, the visual tokens that are most similar to the prompt's text.

It needs no training, and a keep ratio of 1 keeps every token. The host computes the number of kept tokens, the device their
indices, so no step waits for the device. For another rule, pass another `Compressor` to `Reranker`.
Source: arXiv 2605.11864, section on query-image early interaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import torch
import torch.nn.functional as F

from model.dataflow import PreparedRequest


class Compressor(Protocol):
    """A rule that chooses the visual tokens for the decoder."""

    @property
    def name(self) -> str:
        """The name for descriptions of the model."""
        ...

    def kept_count(self, visual_tokens: int, keep_ratio: float) -> int:
        """The number of tokens that a page keeps, 1 to `visual_tokens`. keep_ratio: above 0, at most 1."""
        ...

    def choose(self, visual: torch.Tensor, text: torch.Tensor, batch: Sequence[PreparedRequest]) -> torch.Tensor:
        """Indices, int64 (K,) ascending, of the kept tokens. Each page keeps its number of `kept_counts`.

        visual: (V, D), main features of all pages end to end. text: (T, D), text embeddings of all prompts end to end.
        Runs without gradients and autocast. Must not wait for the device.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarityCompressor:
    """The published rule: keep the tokens with the highest cosine similarity to any token of the prompt's leading text."""

    name: str = "similarity"

    def kept_count(self, visual_tokens: int, keep_ratio: float) -> int:
        return kept_count(visual_tokens, keep_ratio)

    def choose(self, visual: torch.Tensor, text: torch.Tensor, batch: Sequence[PreparedRequest]) -> torch.Tensor:
        return select_tokens(similarity_to_prompts(visual, text, batch), page_shares(batch))


def kept_count(visual_tokens: int, keep_ratio: float) -> int:
    """The number of visual tokens that a page keeps: max(1, round(keep_ratio * visual_tokens)), halves rounded to even."""
    return max(1, round(keep_ratio * visual_tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class PageShare:
    """Token counts of one page in the selection."""

    visual_tokens: int
    kept: int  # tokens to keep


def page_shares(batch: Sequence[PreparedRequest]) -> list[PageShare]:
    """The token counts of all pages of a batch, in order."""
    return [
        PageShare(visual_tokens=page.visual_token_count, kept=kept)
        for request in batch
        for page, kept in zip(request.pages, request.kept_counts, strict=True)
    ]


def select_tokens(similarity: torch.Tensor, pages: Sequence[PageShare]) -> torch.Tensor:
    """Indices, int64 (K,) ascending, of the kept tokens among all visual tokens.

    similarity: float32 (V,), pages end to end. Ties go to the lower index.
    """
    starts = [0, *accumulate(page.visual_tokens for page in pages)]
    kept = [
        starts[index]
        + similarity[starts[index] : starts[index + 1]].sort(descending=True, stable=True).indices[: page.kept]
        for index, page in enumerate(pages)
    ]  # each (kept tokens of the page,)
    return torch.cat(kept).sort().values  # one sort restores the order within all pages


def similarity_to_prompts(visual: torch.Tensor, text: torch.Tensor, batch: Sequence[PreparedRequest]) -> torch.Tensor:
    """Similarity, float32 (V,), of each visual token (V, D) to the leading text of its own request, a part of text (T, D)."""
    visual_parts = torch.split(visual, [request.visual_token_count for request in batch])  # each (tokens, D)
    text_parts = torch.split(text, [request.prompt.token_count for request in batch])  # each (tokens, D)
    return torch.cat(
        [
            text_similarity(tokens, embeddings[: request.prompt.context_length])
            for tokens, embeddings, request in zip(visual_parts, text_parts, batch, strict=True)
        ]
    )


def text_similarity(visual: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Cosine similarity, float32 (V,), of each visual token (V, D) to its most similar text embedding (T, D)."""
    visual = F.normalize(visual.float(), dim=-1)  # (V, D)
    text = F.normalize(text.float(), dim=-1)  # (T, D)
    return (visual @ text.T).amax(dim=-1)
