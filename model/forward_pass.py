"""One forward pass over packed prompts, in stages: upload, encode, compress, pack, read.

Inference, training and benchmarks all run these stages, so their order is written only here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from model.attention import AttentionKernel
from model.compilation import RunLayer
from model.compressor import Compressor
from model.dataflow import Observe, PackedSequences, PreparedPage, PreparedRequest, VisualTokens
from model.qwen3_vl.language_model import LanguageModel
from model.sequence_packer import PackingPlan, pack_sequences, plan_packing


class PageFeatures(Protocol):
    """A source of visual tokens: a `PageEncoder`, or in training features computed beforehand."""

    def encode(self, pages: Sequence[PreparedPage], observe: Observe) -> VisualTokens:
        """The visual tokens (V, D) of `pages` end to end. It may leave merging the DeepStack features to `finish`."""
        ...

    def finish(self, tokens: VisualTokens, observe: Observe) -> VisualTokens:
        """The kept tokens (K, D) with merged DeepStack features."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBatch:
    """A batch as the decoder reads it. K kept visual tokens."""

    sequences: PackedSequences
    kept: torch.Tensor  # int64 (K,), ascending: indices of the kept tokens among all visual tokens
    plan: PackingPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardPass:
    """The parts of a network with their kernels and runners, and the order of the stages."""

    features: PageFeatures
    compressor: Compressor
    language_model: LanguageModel
    kernel: AttentionKernel  # of the decoder
    run_layer: RunLayer  # of the decoder
    device: torch.device

    def run(
        self, batch: Sequence[PreparedRequest], observe: Observe, read_counts: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Normalised hidden states (R, D) of the decoder at the read positions.

        read_counts: for each prompt, the number of positions at its end to read; None: 1 for each.
        """
        return self.read_observed(self.pack(batch, observe, read_counts), observe)

    def read_observed(self, packed: PackedBatch, observe: Observe) -> torch.Tensor:
        """`read`, as the stage `language`."""
        with observe("language"):
            return self.read(packed.sequences)

    def pack(
        self, batch: Sequence[PreparedRequest], observe: Observe, read_counts: Sequence[int] | None = None
    ) -> PackedBatch:
        """All stages before the decoder."""
        with observe("upload"):
            plan = plan_packing(batch, read_counts).upload(self.device)
        visual = self.features.encode([page for request in batch for page in request.pages], observe)  # (V, D)
        with observe("compress"):
            text = self.language_model.embed_tokens(plan.text_ids)  # (T, D)
            kept = self._choose_kept_tokens(visual, text, batch)  # (K,)
            kept_tokens = visual.gather(kept)  # (K, D)
        del visual  # frees up to 1 GiB for the decoder's activations
        kept_tokens = self.features.finish(kept_tokens, observe)
        with observe("pack"):
            sequences = pack_sequences(text, kept_tokens, kept, plan)
        return PackedBatch(sequences=sequences, kept=kept, plan=plan)

    def read(self, sequences: PackedSequences) -> torch.Tensor:
        """Normalised hidden states (R, D) of the decoder at the read positions."""
        hidden: torch.Tensor = self.language_model(sequences, self.kernel, self.run_layer)
        return hidden

    @torch.no_grad()
    def _choose_kept_tokens(
        self, visual: VisualTokens, text: torch.Tensor, batch: Sequence[PreparedRequest]
    ) -> torch.Tensor:
        """Indices (K,) of the kept tokens. Without autocast, so that training chooses the same tokens as inference."""
        with torch.autocast(self.device.type, enabled=False):
            return self.compressor.choose(visual.main, text, batch)


def letter_logits(hidden: torch.Tensor, letter_rows: torch.Tensor) -> torch.Tensor:
    """Logits, float32 (R, letters), of hidden states (R, D). letter_rows: (letters, D), rows of the vocabulary head.

    Computed in float32, because bfloat16 would round the logits of different pages to the same value.
    """
    return F.linear(hidden.float(), letter_rows.float())
