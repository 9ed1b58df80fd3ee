"""Compressors with a choice that a test gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from model.compressor import PageShare, kept_count, page_shares, similarity_to_prompts
from model.dataflow import PreparedRequest

Select = Callable[[torch.Tensor, Sequence[PageShare]], torch.Tensor]
"""Similarity float32 (V,) and the pages' shares to the indices (K,) of the kept tokens."""


@dataclass(frozen=True, slots=True)
class SelectedBy:
    """The published similarity, from which `select` chooses."""

    select: Select
    name: str = "given by a test"

    def kept_count(self, visual_tokens: int, keep_ratio: float) -> int:
        return kept_count(visual_tokens, keep_ratio)

    def choose(self, visual: torch.Tensor, text: torch.Tensor, batch: Sequence[PreparedRequest]) -> torch.Tensor:
        return self.select(similarity_to_prompts(visual, text, batch), page_shares(batch))
