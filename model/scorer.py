"""One forward pass over packed prompts to letter logits.

Only the rows of the vocabulary head that stand for the page identifiers are computed, at the last positions alone.
"""

import torch
import torch.nn.functional as F

from model.attention import AttentionKernel
from model.compilation import RunLayer
from model.dataflow import PackedSequences
from model.qwen3_vl.language_model import LanguageModel


def score_letters(
    language_model: LanguageModel,
    letter_rows: torch.Tensor,
    packed: PackedSequences,
    kernel: AttentionKernel,
    run_layer: RunLayer,
) -> torch.Tensor:
    """Logits float32 (B, letters). letter_rows: float32 (letters, D), rows of the head.

    The product is taken in float32: bfloat16 would round logits of different pages to the same value.
    """
    hidden = language_model(packed, kernel, run_layer)
    return F.linear(hidden.float(), letter_rows)
