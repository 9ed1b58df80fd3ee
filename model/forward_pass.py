"""One forward pass over packed prompts, in its stages: upload, encode, compress, pack, read.

The order of the stages is written here alone; inference, training and benchmarks all run it. Knows no cache, no thread and
no loss.
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
    """Where visual tokens come from: a `PageEncoder`, or in training features that were computed before."""

    def encode(self, pages: Sequence[PreparedPage], observe: Observe) -> VisualTokens:
        """The visual tokens (V, D) of `pages` end to end. DeepStack features may be left unmerged for `finish`."""
        ...

    def finish(self, tokens: VisualTokens, observe: Observe) -> VisualTokens:
        """The kept tokens (K, D) with merged DeepStack features."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBatch:
    """A batch that the decoder is ready to read. K kept visual tokens."""

    sequences: PackedSequences
    kept: torch.Tensor  # int64 (K,), ascending: indices of the kept tokens among all visual tokens
    plan: PackingPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardPass:
    """The parts of a network and the ways in which they run, put in order."""

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

        read_counts: how many of the last positions of each prompt are read; None for one of each.
        """
        packed = self.pack(batch, observe, read_counts)
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
            kept = self._choose(visual, text, batch)  # (K,)
            kept_tokens = visual.gather(kept)  # (K, D)
        del visual  # up to 1 GiB that the decoder's activations can have
        kept_tokens = self.features.finish(kept_tokens, observe)
        with observe("pack"):
            sequences = pack_sequences(text, kept_tokens, kept, plan)
        return PackedBatch(sequences=sequences, kept=kept, plan=plan)

    def read(self, sequences: PackedSequences) -> torch.Tensor:
        """Normalised hidden states (R, D) of the decoder at the read positions."""
        hidden: torch.Tensor = self.language_model(sequences, self.kernel, self.run_layer)
        return hidden

    @torch.no_grad()
    def _choose(self, visual: VisualTokens, text: torch.Tensor, batch: Sequence[PreparedRequest]) -> torch.Tensor:
        """A choice has no gradient, and training under autocast is to choose as inference does."""
        with torch.autocast(self.device.type, enabled=False):
            return self.compressor.choose(visual.main, text, batch)


def letter_logits(hidden: torch.Tensor, letter_rows: torch.Tensor) -> torch.Tensor:
    """Logits float32 (R, letters) of hidden states (R, D); letter_rows: (letters, D), the head's rows for the letters.

    The product is taken in float32: bfloat16 would round logits of different pages to the same value.
    """
    return F.linear(hidden.float(), letter_rows.float())
