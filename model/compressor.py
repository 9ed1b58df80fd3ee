"""Query-image early interaction: keep, per page, the visual tokens that are most similar to the prompt's text.

Training-free; a keep ratio of 1 is the plain model. How many tokens stay is known on the host beforehand, which ones only on
the device: nothing here waits for it. Another rule is another `Compressor`, handed to `Reranker` as its `compressor`.
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
    """The choice of the visual tokens that the decoder sees."""

    @property
    def name(self) -> str: ...

    def kept_count(self, visual_tokens: int, keep_ratio: float) -> int:
        """Tokens, 1 to `visual_tokens`, that a page keeps. keep_ratio: above 0, at most 1."""
        ...

    def choose(self, visual: torch.Tensor, text: torch.Tensor, batch: Sequence[PreparedRequest]) -> torch.Tensor:
        """Indices int64 (K,), ascending, of the kept tokens: `kept_counts` of them on each page of the batch.

        visual: (V, D), main features of all pages end to end. text: (T, D), text embeddings of all prompts end to end.
        Called without gradients and outside of autocast; must not wait for the device.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarityCompressor:
    """The published rule: the tokens with the highest cosine to any token of the prompt's leading text."""

    name: str = "similarity"

    def kept_count(self, visual_tokens: int, keep_ratio: float) -> int:
        return kept_count(visual_tokens, keep_ratio)

    def choose(self, visual: torch.Tensor, text: torch.Tensor, batch: Sequence[PreparedRequest]) -> torch.Tensor:
        return select_tokens(similarity_to_prompts(visual, text, batch), page_shares(batch))


def kept_count(visual_tokens: int, keep_ratio: float) -> int:
    """Visual tokens that a page keeps: max(1, round(keep_ratio * visual_tokens)), halves to even as Python rounds."""
    return max(1, round(keep_ratio * visual_tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class PageShare:
    """One page's part in the selection."""

    visual_tokens: int
    kept: int


def page_shares(batch: Sequence[PreparedRequest]) -> list[PageShare]:
    """The shares of all pages of a batch, end to end."""
    return [
        PageShare(visual_tokens=page.visual_token_count, kept=kept)
        for request in batch
        for page, kept in zip(request.pages, request.kept_counts, strict=True)
    ]


def select_tokens(similarity: torch.Tensor, pages: Sequence[PageShare]) -> torch.Tensor:
    """Indices (K,) of the kept tokens in the packed visual tokens, ascending, so in their original order.

    similarity: float32 (V,), one value a visual token, pages end to end. Ties go to the lower index.
    """
    starts = [0, *accumulate(page.visual_tokens for page in pages)]
    kept = [
        starts[index]
        + similarity[starts[index] : starts[index + 1]].sort(descending=True, stable=True).indices[: page.kept]
        for index, page in enumerate(pages)
    ]  # each (kept tokens of the page,)
    return torch.cat(kept).sort().values  # pages lie one after another, so one sort restores every page's order


def similarity_to_prompts(visual: torch.Tensor, text: torch.Tensor, batch: Sequence[PreparedRequest]) -> torch.Tensor:
    """Float32 (V,): each visual token (V, D) compared with the leading text of its own request, out of text (T, D)."""
    visual_parts = torch.split(visual, [request.visual_token_count for request in batch])  # each (tokens, D)
    text_parts = torch.split(text, [request.prompt.token_count for request in batch])  # each (tokens, D)
    return torch.cat(
        [
            text_similarity(tokens, embeddings[: request.prompt.context_length])
            for tokens, embeddings, request in zip(visual_parts, text_parts, batch, strict=True)
        ]
    )


def text_similarity(visual: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Cosine of each visual token (V, D) with its most similar text embedding (T, D): float32 (V,)."""
    visual = F.normalize(visual.float(), dim=-1)  # (V, D)
    text = F.normalize(text.float(), dim=-1)  # (T, D)
    return (visual @ text.T).amax(dim=-1)
