"""Query-image early interaction: keep, per page, the visual tokens that are most similar to the prompt's text.

Training-free; a keep ratio of 1 is the plain model. How many tokens stay is known on the host beforehand, which ones only on
the device: nothing here waits for it.  Source: arXiv 2605.11864, section on query-image early interaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F


def kept_count(visual_tokens: int, keep_ratio: float) -> int:
    """Visual tokens that a page keeps: max(1, round(keep_ratio * visual_tokens)), halves to even as Python rounds."""
    return max(1, round(keep_ratio * visual_tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class PageShare:
    """One page's part in the selection."""

    visual_tokens: int
    kept: int


def select_tokens(similarity: torch.Tensor, pages: Sequence[PageShare]) -> torch.Tensor:
    """Indices (K,) of the kept tokens in the packed visual tokens, ascending, so in their original order.

    similarity: float32 (V,), one value a visual token, pages end to end. Ties go to the lower index.
    """
    starts = [0, *accumulate(page.visual_tokens for page in pages)]
    kept = [
        starts[index]
        + similarity[starts[index] : starts[index + 1]].sort(descending=True, stable=True).indices[: page.kept]
        for index, page in enumerate(pages)
    ]
    return torch.cat(kept).sort().values  # pages lie one after another, so one sort restores every page's order


def text_similarity(visual: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Cosine of each visual token (V, D) with its most similar text embedding (T, D): float32 (V,)."""
    visual = F.normalize(visual.float(), dim=-1)
    text = F.normalize(text.float(), dim=-1)
    return (visual @ text.T).amax(dim=-1)
