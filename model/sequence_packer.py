"""Packs the prompts and kept visual tokens of B requests end to end, as input of the decoder.

Ids, positions, boundaries and the order of text and visual tokens do not depend on pixels, so they are planned on the host and
uploaded once. Kept tokens keep the M-RoPE positions that they have in the full sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import torch

from model.dataflow import PackedSequences, PreparedPage, PreparedRequest, VisualTokens
from model.device import upload


@dataclass(frozen=True, slots=True, kw_only=True)
class PackingPlan:
    """The layout of a batch of B prompts.

    T text tokens, V visual tokens before pruning and K after it, S = T + K, R positions to read, summed over the batch.
    """

    text_ids: torch.Tensor  # int64 (T,)
    text_positions: torch.Tensor  # int64 (3, T)
    visual_positions: torch.Tensor  # int64 (3, V)
    sources: torch.Tensor  # int64 (S,): index of each packed token in [text tokens, kept visual tokens]
    visual_slots: torch.Tensor  # int64 (K,): packed positions of the visual tokens
    read_slots: torch.Tensor  # int64 (R,): packed positions to read
    read_cu_seqlens: torch.Tensor  # int32 (B + 1,), on the host: boundaries of the prompts among the R positions
    max_read_len: int
    cu_seqlens: torch.Tensor  # int32 (B + 1,), on the host: boundaries of the prompts
    max_seqlen: int

    def upload(self, device: torch.device) -> "PackingPlan":
        """The plan with its tensors on `device`, except the boundaries, which the attention kernel places."""
        return replace(
            self,
            text_ids=upload(self.text_ids, device),
            text_positions=upload(self.text_positions, device),
            visual_positions=upload(self.visual_positions, device),
            sources=upload(self.sources, device),
            visual_slots=upload(self.visual_slots, device),
            read_slots=upload(self.read_slots, device),
        )


def plan_packing(requests: Sequence[PreparedRequest], read_counts: Sequence[int] | None = None) -> PackingPlan:
    """The plan for `requests` end to end, on the host.

    read_counts: for each prompt, the number of positions at its end to read, at least 1; None: 1 for each.
    """
    read_counts = read_counts or [1] * len(requests)
    is_visual = np.concatenate([_visual_mask(request) for request in requests])  # (S,)
    positions = [mrope_positions(request.prompt.segments, request.pages) for request in requests]  # text, visual
    ends = np.cumsum([request.token_count for request in requests])  # (B,), one past the last position of each prompt
    # Text tokens are numbered from 0, visual tokens from T, each in order of appearance.
    text_count = int((~is_visual).sum())
    sources = np.where(is_visual, text_count + np.cumsum(is_visual) - 1, np.cumsum(~is_visual) - 1)  # (S,)
    read_slots = [np.arange(end - count, end) for end, count in zip(ends, read_counts, strict=True)]
    return PackingPlan(
        text_ids=torch.from_numpy(np.concatenate([s for request in requests for s in request.prompt.segments])),
        text_positions=torch.from_numpy(np.concatenate([text for text, _ in positions], axis=1)),
        visual_positions=torch.from_numpy(np.concatenate([visual for _, visual in positions], axis=1)),
        sources=torch.from_numpy(sources),
        visual_slots=torch.from_numpy(np.flatnonzero(is_visual)),
        read_slots=torch.from_numpy(np.concatenate(read_slots)),
        read_cu_seqlens=torch.tensor([0, *accumulate(read_counts)], dtype=torch.int32),
        max_read_len=max(read_counts),
        cu_seqlens=torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)),
        max_seqlen=max(request.token_count for request in requests),
    )


def _visual_mask(request: PreparedRequest) -> np.ndarray:
    """bool (tokens,): whether each position of the pruned prompt holds a visual token."""
    pieces = [np.zeros(len(request.prompt.segments[0]), dtype=bool)]
    for kept, segment in zip(request.kept_counts, request.prompt.segments[1:], strict=True):
        pieces += [np.ones(kept, dtype=bool), np.zeros(len(segment), dtype=bool)]
    return np.concatenate(pieces)


def mrope_positions(segments: Sequence[np.ndarray], pages: Sequence[PreparedPage]) -> tuple[np.ndarray, np.ndarray]:
    """M-RoPE positions (time, height, width) of the text (3, T) and of all visual tokens before pruning (3, V), both int64.

    Each text token advances all three by 1. In a page that starts at p, the token at (row, column) has position
    (p, p + row, p + column); the text after the page continues at p + max(rows, columns).
    """
    start = 0
    text: list[np.ndarray] = []
    visual: list[np.ndarray] = []
    for index, segment in enumerate(segments):
        text.append(np.tile(np.arange(start, start + len(segment)), (3, 1)))  # (3, tokens)
        start += len(segment)
        if index < len(pages):
            page = pages[index]
            row, column = np.divmod(np.arange(page.visual_token_count), page.columns)  # each (tokens,)
            visual.append(np.stack([np.full_like(row, start), start + row, start + column]))  # (3, tokens)
            start += max(page.rows, page.columns)
    return np.concatenate(text, axis=1), np.concatenate(visual, axis=1)


def pack_sequences(
    text: torch.Tensor, kept_tokens: VisualTokens, kept: torch.Tensor, plan: PackingPlan
) -> PackedSequences:
    """Interleave text and kept visual tokens as planned.

    text: (T, D), embeddings of `plan.text_ids`. kept_tokens: (K, D). kept: int64 (K,), ascending, their indices among the V
    visual tokens.
    """
    positions = torch.cat([plan.text_positions, plan.visual_positions.index_select(1, kept)], dim=1)  # (3, T + K)
    return PackedSequences(
        embeddings=torch.cat([text, kept_tokens.main]).index_select(0, plan.sources),  # (S, D)
        positions=positions.index_select(1, plan.sources),  # (3, S)
        visual_slots=plan.visual_slots,
        deepstack=kept_tokens.deepstack,
        cu_seqlens=plan.cu_seqlens,
        max_seqlen=plan.max_seqlen,
        read_slots=plan.read_slots,
        read_cu_seqlens=plan.read_cu_seqlens,
        max_read_len=plan.max_read_len,
    )
