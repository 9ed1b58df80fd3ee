"""Trains attention heads of three decoder layers towards given targets, so that the decoder learns to find the right page.

    first layer    from a visual token to the word of the query that is printed there; from the end of a page to two tokens
                   of the prompt, in shares that encode the place of the page in the list
    second layer   from the end of a page to those of its visual tokens that show a word of the query
    last layer     from the end of the prompt to the end of the right page

A token without a target should attend to the first token of its prompt. The loss is the cross-entropy of the attention over
all visible tokens. It applies to all heads in the last layer, to the second query head of each key head for the places, and
to the first query head elsewhere, so that every key head is trained. Without any guidance the decoder was still at chance
after the 200 steps that were tried. Without guidance of the places it learned the letters of two pages in 200 steps, but not
those of ten in 1,000.
"""

import math
from dataclasses import dataclass
from enum import Enum
from typing import cast

import torch
from torch import nn

from model.config import MAX_WINDOW_SIZE
from model.qwen3_vl.language_model import DecoderLayer

_STEEPNESS = 3.0  # of the sigmoid that turns a cosine or sine into a share: nearly 0 to nearly 1
_SAMPLED_TOKENS = 256  # visual tokens per step, half of them with a word of the query


class Heads(Enum):
    """The query heads of each key head that the loss applies to."""

    ALL = slice(None)
    FIRST = slice(0, 1)
    SECOND = slice(1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInput:
    """A decoder layer and its arguments for S packed tokens."""

    layer: DecoderLayer
    hidden: torch.Tensor  # (S, D)
    cos: torch.Tensor  # (S, head_dim)
    sin: torch.Tensor  # (S, head_dim)


class LayerRecorder:
    """Runs decoder layers and records the input and output of each, in place of `run_layer`."""

    def __init__(self) -> None:
        self.inputs: list[LayerInput] = []
        self.states: list[torch.Tensor] = []  # the output of each layer, (S, D)

    def __call__(
        self, layer: nn.Module, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *rest: object
    ) -> torch.Tensor:
        self.inputs.append(LayerInput(layer=cast(DecoderLayer, layer), hidden=hidden, cos=cos, sin=sin))
        out: torch.Tensor = layer(hidden, cos, sin, *rest)
        self.states.append(out)
        return out

    def input_of(self, layer: nn.Module) -> LayerInput:
        """The input of the last layer, which runs without the recorder: the output of the layer before it."""
        before = self.inputs[-1]
        return LayerInput(layer=cast(DecoderLayer, layer), hidden=self.states[-1], cos=before.cos, sin=before.sin)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionTargets:
    """Targets of the attention of M of the S packed tokens."""

    slots: torch.Tensor  # int64 (M,): positions of the tokens
    is_target: torch.Tensor  # bool (M, S): the targets of each; a row may have none
    heads: Heads = Heads.FIRST


def to_words(
    text_ids: torch.Tensor, slots: torch.Tensor, words: torch.Tensor, is_clear: torch.Tensor, starts: torch.Tensor
) -> AttentionTargets:
    """Targets for a random sample of the K visual tokens: the tokens of the query with the same word.

    text_ids: int64 (S,), -1 for visual tokens.
    slots: int64 (K,), positions of the visual tokens.
    words: int64 (K, n), ids of the words of the query on each visual token, -1 for none.
    is_clear: bool (K,), whether a visual token may be sampled.
    starts: int64 (S,), see `sequence_starts`.
    """
    has_word = (words >= 0).any(-1)
    sample = torch.cat([_random_sample(has_word & is_clear), _random_sample(~has_word & is_clear)])
    slots, words = slots[sample], words[sample, :, None]  # (M,), (M, n, 1)
    is_target = ((words == text_ids[None, None]) & (words >= 0)).any(1)  # (M, S)
    return AttentionTargets(slots=slots, is_target=is_target & (starts[None] == starts[slots][:, None]))


def to_matches(ends: torch.Tensor, slots: torch.Tensor, is_match: torch.Tensor, token_count: int) -> AttentionTargets:
    """Targets for the ends of all pages: the visual tokens of the page that match the query.

    ends: int64 (pages,), positions. slots: int64 (K,), positions of the visual tokens, the same number for each page in turn.
    is_match: bool (K,).
    """
    page = torch.arange(len(ends), device=ends.device).repeat_interleave(len(slots) // len(ends))  # (K,)
    is_target = torch.zeros(len(ends), token_count, dtype=torch.bool, device=ends.device)
    is_target[page[is_match], slots[is_match]] = True
    return AttentionTargets(slots=ends, is_target=is_target)


def to_places(slots: torch.Tensor, places: torch.Tensor, token_count: int) -> AttentionTargets:
    """One target place for each slot, both int64 (M,), for all heads."""
    is_target = torch.zeros(len(slots), token_count, dtype=torch.bool, device=slots.device)
    is_target.scatter_(1, places[:, None], True)
    return AttentionTargets(slots=slots, is_target=is_target, heads=Heads.ALL)


def attend_only_to(given: LayerInput, slots: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The output (M, D) of the layer at `slots` if all of their heads attended only to `places`, both int64 (M,)."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return v[places].repeat_interleave(q.shape[1] // v.shape[1], dim=1)  # (M, query heads, head_dim)

    out: torch.Tensor = given.layer(given.hidden, given.cos, given.sin, attend, slots)
    return out


def attention_loss(given: LayerInput, targets: AttentionTargets, starts: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The loss for these targets, and the share of slots with a target whose strongest attention is on a target."""
    log_attention = _attention(given, targets.slots, targets.heads, starts)  # (key heads, query heads, M, S)
    has_target = targets.is_target.any(-1)
    strongest = log_attention.exp().mean((0, 1)).argmax(-1)  # (M,)
    found = targets.is_target.gather(1, strongest[:, None])[has_target].float().mean().item()
    is_target = targets.is_target.clone()
    is_target[~has_target, starts[targets.slots][~has_target]] = True
    return -log_attention.masked_fill(~is_target, -torch.inf).logsumexp(-1).mean(), found


def place_loss(
    given: LayerInput, slots: torch.Tensor, places: torch.Tensor, anchors: torch.Tensor, starts: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """The loss by which two heads learn to encode a place in their attention, and the mean error of the shares.

    The heads divide their attention between an anchor and the first token of the prompt: one by the cosine of an angle that
    grows with the place, the other by its sine. So the shares of any place are not an average of those of other places. A full
    turn has two places more than the longest list. A head with rotary embeddings can measure the angle if the distance to the
    anchor grows evenly with the place.

    slots, places, anchors: int64 (M,).
    """
    log_attention = _attention(given, slots, Heads.SECOND, starts).squeeze(1)  # (key heads, M, S)
    angles = places * (2 * math.pi / (MAX_WINDOW_SIZE + 2))
    by_head = torch.stack([angles.cos() if head % 2 == 0 else angles.sin() for head in range(len(log_attention))])
    target_shares = torch.sigmoid(_STEEPNESS * by_head)  # (key heads, M)
    to_anchor, to_first = (
        log_attention.gather(2, there.expand(len(log_attention), -1)[..., None]).squeeze(2)
        for there in (anchors, starts[slots])
    )
    error = (to_anchor.exp() - target_shares).abs().mean().item()
    return -(target_shares * to_anchor + (1 - target_shares) * to_first).mean(), error


def _random_sample(is_candidate: torch.Tensor) -> torch.Tensor:
    candidates = is_candidate.nonzero().flatten()
    return candidates[torch.randperm(len(candidates), device=candidates.device)[: _SAMPLED_TOKENS // 2]]


def _attention(given: LayerInput, slots: torch.Tensor, heads: Heads, starts: torch.Tensor) -> torch.Tensor:
    """Log attention of the guided heads to all tokens: (key heads, query heads, M, S), -inf behind the causal mask."""
    attention = given.layer.self_attn
    normalised = given.layer.input_layernorm(given.hidden)  # (S, D)
    keys = attention.keys_and_values(normalised, given.cos, given.sin)[0].float()  # (S, key heads, head_dim)
    queries = attention.queries(normalised[slots], given.cos[slots], given.sin[slots]).float()  # (M, heads, head_dim)
    groups = queries.view(len(slots), keys.shape[1], -1, keys.shape[2])  # (M, key heads, query heads of each, head_dim)
    by_key = groups[:, :, heads.value]
    places = torch.arange(len(keys), device=keys.device)
    is_visible = (places[None] >= starts[slots][:, None]) & (places[None] <= slots[:, None])  # (M, S)
    logits = torch.einsum("mgqd,sgd->gqms", by_key, keys) * queries.shape[-1] ** -0.5
    log_attention: torch.Tensor = logits.masked_fill(~is_visible, -torch.inf).log_softmax(-1)
    return log_attention


def sequence_starts(cu_seqlens: torch.Tensor) -> torch.Tensor:
    """The position, int64 (S,), at which the sequence of each packed token begins."""
    bounds = cu_seqlens.long()
    return bounds[:-1].repeat_interleave(bounds.diff())
