"""Tells some heads of three decoder layers where to look, so that the decoder learns to find the right page.

    first layer    from a visual token to the word of the query that lies under it; from a page's end to two tokens of the
                   prompt, in shares that tell how far behind it is
    second layer   from a page's end to its visual tokens with a word of the query
    last layer     from the prompt's end to the end of the right page

Whoever has nothing to look at shall look at its prompt's first token. Cross-entropy of the heads' attention, over all tokens
that they can see: of all heads in the last layer, for places of the second query head on each key head, elsewhere of the first,
so that all keys are of use. Without guidance the decoder was still at chance after the 200 steps that were tried; without that
of places it learned the letters of two pages in 200 steps and those of ten not in 1,000. Knows nothing of letters.
"""

import math
from dataclasses import dataclass
from enum import Enum
from typing import cast

import torch
from torch import nn

from model.config import MAX_WINDOW_SIZE
from model.qwen3_vl.language_model import DecoderLayer

_STEEPNESS = 3.0  # of the shares over the angle: nearly 0 to nearly 1
_ASKED = 256  # visual tokens a step, half of them with a word of the query


class Heads(Enum):
    """Which of the query heads on each key head."""

    ALL = slice(None)
    FIRST = slice(0, 1)
    SECOND = slice(1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInput:
    """What a decoder layer was called with: S tokens."""

    layer: DecoderLayer
    hidden: torch.Tensor  # (S, D)
    cos: torch.Tensor  # (S, head_dim)
    sin: torch.Tensor


class Watcher:
    """Runs layers, and keeps what went into each and came out of it."""

    def __init__(self) -> None:
        self.inputs: list[LayerInput] = []
        self.states: list[torch.Tensor] = []

    def __call__(
        self, layer: nn.Module, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *rest: object
    ) -> torch.Tensor:
        self.inputs.append(LayerInput(layer=cast(DecoderLayer, layer), hidden=hidden, cos=cos, sin=sin))
        out: torch.Tensor = layer(hidden, cos, sin, *rest)
        self.states.append(out)
        return out

    def input_of(self, layer: nn.Module) -> LayerInput:
        """Of a layer that is run without the watcher, the last one: what the one before it gave."""
        before = self.inputs[-1]
        return LayerInput(layer=cast(DecoderLayer, layer), hidden=self.states[-1], cos=before.cos, sin=before.sin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookout:
    """Some of the S packed tokens, and where each shall look."""

    slots: torch.Tensor  # int64 (M,)
    is_target: torch.Tensor  # bool (M, S)
    heads: Heads = Heads.FIRST


def to_words(
    text_ids: torch.Tensor, slots: torch.Tensor, words: torch.Tensor, is_clear: torch.Tensor, starts: torch.Tensor
) -> Lookout:
    """For some visual tokens, chosen by torch's random numbers.

    text_ids: int64 (S,), -1 for visual tokens; slots: int64 (K,); words: int64 (K, n), ids of the words of the query under
    each, -1 for none; is_clear: bool (K,), which of them may be asked; starts: see `sequence_starts`.
    """
    has_word = (words >= 0).any(-1)
    asked = torch.cat([_some(has_word & is_clear), _some(~has_word & is_clear)])
    slots, words = slots[asked], words[asked, :, None]
    is_target = ((words == text_ids[None, None]) & (words >= 0)).any(1)
    return Lookout(slots=slots, is_target=is_target & (starts[None] == starts[slots][:, None]))


def to_matches(ends: torch.Tensor, slots: torch.Tensor, is_match: torch.Tensor, token_count: int) -> Lookout:
    """For all page ends (pages,). slots: int64 (K,), page by page equally many visual tokens; is_match: bool (K,)."""
    page = torch.arange(len(ends), device=ends.device).repeat_interleave(len(slots) // len(ends))
    is_target = torch.zeros(len(ends), token_count, dtype=torch.bool, device=ends.device)
    is_target[page[is_match], slots[is_match]] = True
    return Lookout(slots=ends, is_target=is_target)


def to_places(slots: torch.Tensor, places: torch.Tensor, token_count: int) -> Lookout:
    """One place for each of the slots, both int64 (M,), for all heads."""
    is_target = torch.zeros(len(slots), token_count, dtype=torch.bool, device=slots.device)
    is_target.scatter_(1, places[:, None], True)
    return Lookout(slots=slots, is_target=is_target, heads=Heads.ALL)


def look_at(given: LayerInput, slots: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(M, D): what the layer would make of `slots` if all of their heads looked at `places` alone, both int64 (M,)."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return v[places].repeat_interleave(q.shape[1] // v.shape[1], dim=1)

    out: torch.Tensor = given.layer(given.hidden, given.cos, given.sin, attend, slots)
    return out


def attention_loss(given: LayerInput, lookout: Lookout, starts: torch.Tensor) -> tuple[torch.Tensor, float]:
    """And the share that look at a target more than at anything else, of those that have one."""
    chances = _attention(given, lookout.slots, lookout.heads, starts)
    has_target = lookout.is_target.any(-1)
    looked_at = chances.exp().mean((0, 1)).argmax(-1)
    found = lookout.is_target.gather(1, looked_at[:, None])[has_target].float().mean().item()
    is_target = lookout.is_target.clone()
    is_target[~has_target, starts[lookout.slots][~has_target]] = True
    return -chances.masked_fill(~is_target, -torch.inf).logsumexp(-1).mean(), found


def place_loss(
    given: LayerInput, slots: torch.Tensor, places: torch.Tensor, anchors: torch.Tensor, starts: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """Two heads divide their attention between an anchor and the prompt's first token: one by the cosine of an angle that
    grows with the place, the other by its sine, so that no place's shares lie between those of others.

    Gives the mean error of the shares too.

    slots, places, anchors: int64 (M,). The angle is a turn in as many places as a list can have and two more; an attention head
    that turns its keys with the distance (RoPE) can tell it, if the distance to the anchor grows evenly.
    """
    chances = _attention(given, slots, Heads.SECOND, starts).squeeze(1)  # (key heads, M, S)
    angles = places * (2 * math.pi / (MAX_WINDOW_SIZE + 2))
    by_head = torch.stack([angles.cos() if head % 2 == 0 else angles.sin() for head in range(len(chances))])
    wanted = torch.sigmoid(_STEEPNESS * by_head)
    to_anchor, to_first = (
        chances.gather(2, there.expand(len(chances), -1)[..., None]).squeeze(2) for there in (anchors, starts[slots])
    )
    error = (to_anchor.exp() - wanted).abs().mean().item()
    return -(wanted * to_anchor + (1 - wanted) * to_first).mean(), error


def _some(is_candidate: torch.Tensor) -> torch.Tensor:
    candidates = is_candidate.nonzero().flatten()
    return candidates[torch.randperm(len(candidates), device=candidates.device)[: _ASKED // 2]]


def _attention(given: LayerInput, slots: torch.Tensor, heads: Heads, starts: torch.Tensor) -> torch.Tensor:
    """(key heads, query heads, M, S): logarithms of the guided heads' attention to all tokens, -inf for what none can see."""
    attention = given.layer.self_attn
    normalised = given.layer.input_layernorm(given.hidden)
    keys = attention.keys_and_values(normalised, given.cos, given.sin)[0].float()  # one head for every group of queries
    queries = attention.queries(normalised[slots], given.cos[slots], given.sin[slots]).float()
    by_key = queries.view(len(slots), keys.shape[1], -1, keys.shape[2])[:, :, heads.value]
    places = torch.arange(len(keys), device=keys.device)
    is_seen = (places[None] >= starts[slots][:, None]) & (places[None] <= slots[:, None])
    logits = torch.einsum("mgqd,sgd->gqms", by_key, keys) * queries.shape[-1] ** -0.5
    chances: torch.Tensor = logits.masked_fill(~is_seen, -torch.inf).log_softmax(-1)
    return chances


def sequence_starts(cu_seqlens: torch.Tensor) -> torch.Tensor:
    """int64 (S,): where the sequence of each packed token begins."""
    bounds = cu_seqlens.long()
    return bounds[:-1].repeat_interleave(bounds.diff())
