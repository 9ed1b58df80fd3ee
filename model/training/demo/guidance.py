"""Tells one head of the decoder's first layer where to look: from a visual token to the word of the query that lies under it.

A visual token with no word of the query shall look at the prompt's first token. Cross-entropy of the head's attention, over all
tokens that it can see. Finding a word on a page is then a matter of hundreds of steps. Knows nothing of pages and letters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from model.language_model import DecoderLayer

_ASKED = 256  # visual tokens a step, half of them with a word of the query
_HEAD = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInput:
    """What a decoder layer was called with: S tokens."""

    layer: DecoderLayer
    hidden: torch.Tensor  # (S, D)
    cos: torch.Tensor  # (S, head_dim)
    sin: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookout:
    """K visual tokens and where they may look, in packed sequences of S tokens."""

    text_ids: torch.Tensor  # int64 (S,): -1 for visual tokens
    starts: torch.Tensor  # int64 (S,): where each token's sequence begins
    slots: torch.Tensor  # int64 (K,)
    words: torch.Tensor  # int64 (K, n): ids of the words of the query under each, -1 for none


def attention_loss(given: LayerInput, lookout: Lookout) -> tuple[torch.Tensor, float]:
    """The loss over some visual tokens, chosen by torch's random numbers, and how many with a word look at it (a share)."""
    asked = _choose(lookout)
    slots, words = lookout.slots[asked], lookout.words[asked]
    chances = _attention(given, slots, lookout.starts)
    is_target = (lookout.text_ids[None, :, None] == words[:, None, :]).logical_and(words[:, None, :] >= 0).any(-1)
    places = torch.arange(len(lookout.text_ids))
    starts = lookout.starts[slots]
    is_target &= places[None] >= starts[:, None]
    nowhere = ~is_target.any(-1)
    is_target[nowhere, starts[nowhere]] = True
    found = is_target.gather(1, chances.argmax(-1)[:, None])[~nowhere].float().mean().item()
    return -chances.masked_fill(~is_target, -torch.inf).logsumexp(-1).mean(), found


def _choose(lookout: Lookout) -> torch.Tensor:
    has_word = (lookout.words >= 0).any(-1)
    return torch.cat([_some(has_word), _some(~has_word)])


def _some(is_candidate: torch.Tensor) -> torch.Tensor:
    candidates = is_candidate.nonzero().flatten()
    return candidates[torch.randperm(len(candidates))[: _ASKED // 2]]


def _attention(given: LayerInput, slots: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """Logarithms of the head's attention from `slots` to all S tokens: -inf for those that it cannot see."""
    attention = given.layer.self_attn
    normalised = given.layer.input_layernorm(given.hidden)
    keys = attention.keys_and_values(normalised, given.cos, given.sin)[0][:, _HEAD].float()
    queries = attention.queries(normalised[slots], given.cos[slots], given.sin[slots])[:, _HEAD].float()
    places = torch.arange(len(keys))
    is_seen = (places[None] >= starts[slots][:, None]) & (places[None] <= slots[:, None])
    logits = queries @ keys.T * queries.shape[-1] ** -0.5
    chances: torch.Tensor = logits.masked_fill(~is_seen, -torch.inf).log_softmax(-1)
    return chances


class Watcher:
    """Runs layers, and keeps the first one's input and every one's output."""

    def __init__(self) -> None:
        self.first: LayerInput | None = None
        self.states: list[torch.Tensor] = []

    def __call__(
        self, layer: nn.Module, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *rest: object
    ) -> torch.Tensor:
        if self.first is None:
            self.first = LayerInput(layer=cast(DecoderLayer, layer), hidden=hidden, cos=cos, sin=sin)
        out: torch.Tensor = layer(hidden, cos, sin, *rest)
        self.states.append(out)
        return out


def sequence_starts(cu_seqlens: Sequence[int]) -> torch.Tensor:
    """int64 (S,)."""
    lengths = torch.tensor(cu_seqlens).diff()
    return torch.tensor(cu_seqlens[:-1]).repeat_interleave(lengths)
