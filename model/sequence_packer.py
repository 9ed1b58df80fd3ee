"""Prompts and kept visual tokens of B requests, end to end, as the one packed sequence that the decoder reads.

Everything that does not depend on pixels is planned on the host from the page grids and uploaded once: ids, positions,
boundaries and the order in which text and visual tokens interleave. Kept tokens keep the M-RoPE position that they had in the
full sequence. Knows neither how tokens were chosen nor what the decoder does.
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
    """T text tokens, V visual tokens before and K after pruning, S = T + K, R positions to read, all of a whole batch."""

    text_ids: torch.Tensor  # int64 (T,)
    text_positions: torch.Tensor  # int64 (3, T)
    visual_positions: torch.Tensor  # int64 (3, V)
    sources: torch.Tensor  # int64 (S,): for each packed token its index in (text tokens, then kept visual tokens)
    visual_slots: torch.Tensor  # int64 (K,): for each kept visual token its place in the packed sequence
    read_slots: torch.Tensor  # int64 (R,)
    read_cu_seqlens: torch.Tensor  # int32 (B + 1,), stays on the host
    max_read_len: int
    cu_seqlens: torch.Tensor  # int32 (B + 1,), stays on the host
    max_seqlen: int

    def upload(self, device: torch.device) -> "PackingPlan":
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

    read_counts: how many of the last positions of each prompt are read, at least one; None for one of each.
    """
    read_counts = read_counts or [1] * len(requests)
    is_visual = np.concatenate([_visual_mask(request) for request in requests])
    positions = [mrope_positions(request.prompt.segments, request.pages) for request in requests]
    ends = np.cumsum([request.token_count for request in requests])
    return PackingPlan(
        text_ids=torch.from_numpy(np.concatenate([s for request in requests for s in request.prompt.segments])),
        text_positions=torch.from_numpy(np.concatenate([text for text, _ in positions], axis=1)),
        visual_positions=torch.from_numpy(np.concatenate([visual for _, visual in positions], axis=1)),
        sources=torch.from_numpy(_sources(is_visual)),
        visual_slots=torch.from_numpy(np.flatnonzero(is_visual)),
        read_slots=torch.from_numpy(_read_slots(ends, read_counts)),
        read_cu_seqlens=torch.tensor([0, *accumulate(read_counts)], dtype=torch.int32),
        max_read_len=max(read_counts),
        cu_seqlens=torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)),
        max_seqlen=max(request.token_count for request in requests),
    )


def _visual_mask(request: PreparedRequest) -> np.ndarray:
    """bool (tokens,): which places of the pruned prompt hold visual tokens."""
    pieces = [np.zeros(len(request.prompt.segments[0]), dtype=bool)]
    for kept, segment in zip(request.kept_counts, request.prompt.segments[1:], strict=True):
        pieces += [np.ones(kept, dtype=bool), np.zeros(len(segment), dtype=bool)]
    return np.concatenate(pieces)


def _sources(is_visual: np.ndarray) -> np.ndarray:
    """Text tokens count up from 0 and visual tokens from behind the last text token, each in order of appearance."""
    text_count = int((~is_visual).sum())
    return np.where(is_visual, text_count + np.cumsum(is_visual) - 1, np.cumsum(~is_visual) - 1)


def _read_slots(ends: np.ndarray, read_counts: Sequence[int]) -> np.ndarray:
    """The last positions of every prompt, ascending."""
    return np.concatenate([np.arange(end - count, end) for end, count in zip(ends, read_counts, strict=True)])


def mrope_positions(segments: Sequence[np.ndarray], pages: Sequence[PreparedPage]) -> tuple[np.ndarray, np.ndarray]:
    """M-RoPE positions of the text (3, T) and of all visual tokens before pruning (3, V), both int64.

    Text advances time, height and width by one; a page starting at p gives its token (row, column) the position
    (p, p + row, p + column), and the text after it goes on at p + max(rows, columns).
    """
    start = 0
    text: list[np.ndarray] = []
    visual: list[np.ndarray] = []
    for index, segment in enumerate(segments):
        text.append(np.tile(np.arange(start, start + len(segment)), (3, 1)))
        start += len(segment)
        if index < len(pages):
            page = pages[index]
            row, column = np.divmod(np.arange(page.visual_token_count), page.columns)
            visual.append(np.stack([np.full_like(row, start), start + row, start + column]))
            start += max(page.rows, page.columns)
    return np.concatenate(text, axis=1), np.concatenate(visual, axis=1)


def pack_sequences(
    text: torch.Tensor, kept_tokens: VisualTokens, kept: torch.Tensor, plan: PackingPlan
) -> PackedSequences:
    """text (T, D): the embeddings of `plan.text_ids`; kept: int64 (K,), ascending, which of the V visual tokens those are."""
    positions = torch.cat([plan.text_positions, plan.visual_positions.index_select(1, kept)], dim=1)
    return PackedSequences(
        embeddings=torch.cat([text, kept_tokens.main]).index_select(0, plan.sources),
        positions=positions.index_select(1, plan.sources),
        visual_slots=plan.visual_slots,
        deepstack=kept_tokens.deepstack,
        cu_seqlens=plan.cu_seqlens,
        max_seqlen=plan.max_seqlen,
        read_slots=plan.read_slots,
        read_cu_seqlens=plan.read_cu_seqlens,
        max_read_len=plan.max_read_len,
    )
