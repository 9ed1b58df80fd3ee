"""The records that the stages exchange, with the shape of every array.

Symbols: B requests in a batch; P patches, V visual tokens (V = P / 4), K kept visual tokens, T text tokens and S = T + K packed
tokens, each summed over the batch; R positions whose hidden states are read (R = B in inference); D, the text width.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from model.kept_tokens import KeptTokens

Observe = Callable[[str], AbstractContextManager[None]]
"""Each stage runs inside `with observe(stage): …`, where the caller may measure it."""


def no_observation(stage: str) -> AbstractContextManager[None]:
    """The default `observe`, without any measurement."""
    return nullcontext()


@dataclass(frozen=True, slots=True, kw_only=True)
class PageImage:
    """A decoded page, its longest edge at most 1024 px."""

    pixels: np.ndarray  # uint8 (height, width, 3), RGB


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedPage:
    """A page on the model's grid: both sides are multiples of 32 px."""

    pixels: np.ndarray  # uint8 (height, width, 3), RGB, contiguous
    rows: int  # visual tokens from top to bottom: height / 32
    columns: int  # visual tokens from left to right: width / 32
    content_hash: bytes  # SHA-256 of tenant, size and pixels; pages with equal hashes have equal features
    staged: torch.Tensor | None = None  # the pixels in page-locked memory, for a fast upload

    @property
    def host_pixels(self) -> torch.Tensor:
        """uint8 (height, width, 3), in page-locked memory if there is such a copy."""
        return torch.from_numpy(self.pixels) if self.staged is None else self.staged

    @property
    def visual_token_count(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """The token ids around the page images. `segments[i]` precedes image i, and the last one follows all images."""

    segments: tuple[np.ndarray, ...]  # each int64 (tokens,); one more than there are pages
    context_length: int  # leading text tokens, before the first vision marker: the compressor's context

    @property
    def token_count(self) -> int:
        return sum(len(segment) for segment in self.segments)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRequest:
    """One query with the pages of one window, fully validated and planned on the CPU."""

    prompt: Prompt
    pages: tuple[PreparedPage, ...]
    kept_counts: tuple[int, ...]  # visual tokens that each page keeps
    patch_count: int  # cost of the vision pass without the feature cache
    reports_kept_tokens: bool = False  # its scores say which visual tokens were kept

    @property
    def visual_token_count(self) -> int:
        """Visual tokens before pruning."""
        return sum(page.visual_token_count for page in self.pages)

    @property
    def kept_token_count(self) -> int:
        """Visual tokens after pruning."""
        return sum(self.kept_counts)

    @property
    def token_count(self) -> int:
        """Cost of the language pass: length of the packed sequence after pruning."""
        return self.prompt.token_count + self.kept_token_count


@dataclass(frozen=True, slots=True, kw_only=True)
class VisualTokens:
    """Page features of a batch, all pages end to end."""

    main: torch.Tensor  # (V, D): merger output
    deepstack: tuple[torch.Tensor, ...]  # for the first decoder layers, each (V, D); before merging (V, 4 * hidden)

    def gather(self, indices: torch.Tensor) -> "VisualTokens":
        """The tokens at `indices`, int64 (K,) on the same device."""
        return VisualTokens(
            main=self.main.index_select(0, indices),
            deepstack=tuple(features.index_select(0, indices) for features in self.deepstack),
        )

    def to(self, device: torch.device) -> "VisualTokens":
        """Copies on `device`. Does not wait for them."""
        return VisualTokens(
            main=self.main.to(device, non_blocking=True),
            deepstack=tuple(features.to(device, non_blocking=True) for features in self.deepstack),
        )

    def split(self, counts: Sequence[int]) -> "list[VisualTokens]":
        """One record per page, as views. counts: tokens of each page."""
        levels = [torch.split(features, list(counts)) for features in (self.main, *self.deepstack)]
        return [VisualTokens(main=main, deepstack=tuple(deepstack)) for main, *deepstack in zip(*levels, strict=True)]

    @classmethod
    def join(cls, pages: "Sequence[VisualTokens]") -> "VisualTokens":
        """Pages end to end, copied."""
        levels = zip(*(page.deepstack for page in pages), strict=True)
        return cls(main=torch.cat([page.main for page in pages]), deepstack=tuple(torch.cat(rows) for rows in levels))


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedSequences:
    """B prompts with their kept visual tokens, end to end, without padding."""

    embeddings: torch.Tensor  # (S, D)
    positions: torch.Tensor  # int64 (3, S): time, height, width
    visual_slots: torch.Tensor  # int64 (K,): positions of the visual tokens among the S tokens
    deepstack: tuple[torch.Tensor, ...]  # each (K, D)
    cu_seqlens: torch.Tensor  # int32 (B + 1,), on the host; the language model places it for its kernel
    max_seqlen: int
    read_slots: torch.Tensor  # int64 (R,): positions to read, the last ones of each prompt
    read_cu_seqlens: torch.Tensor  # int32 (B + 1,), on the host: boundaries of the prompts among the read positions
    max_read_len: int  # the largest number of positions read in one prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class PageScores:
    """The answer to one prepared request."""

    logits: tuple[float, ...]  # letter logit of each page, in input order
    order: tuple[int, ...]  # page indices, best first; ties by input order
    visual_tokens: int  # before pruning
    kept_tokens: int  # after pruning
    prompt_tokens: int  # length of the packed sequence
    cached_pages: int = 0  # pages whose features came from the cache
    kept: tuple[KeptTokens, ...] | None = None  # of each page, in input order; None: the request did not ask for it

    @property
    def is_finite(self) -> bool:
        return all(math.isfinite(logit) for logit in self.logits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The answer to one query over any number of pages."""

    order: tuple[int, ...]  # page indices, best first
    logits: tuple[float, ...] | None  # of each page; None for several windows, whose logits are not comparable
    scores: tuple[float, ...]  # of each page, in [0, 1]: softmax of the logits, else (n - rank) / n
    windows: tuple[PageScores, ...]  # in the order in which they were scored
