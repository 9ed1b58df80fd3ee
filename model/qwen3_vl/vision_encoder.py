"""The vision tower: turns patches of many pages, end to end, into visual tokens and DeepStack features.

Attention stays within a page, so pages of different sizes and requests share one pass without padding. Parameter names are
the checkpoint's (`model.visual.…`). The features do not depend on the query.
Source: Qwen3-VL (transformers `Qwen3VLVisionModel`), DeepStack (arXiv 2406.04334).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import nn

from model.attention import AttentionKernel, PackedAttention
from model.compilation import RunLayer
from model.config import VisionConfig
from model.dataflow import PreparedPage, VisualTokens
from model.device import upload
from model.qwen3_vl.rope import axial_cos_sin, rotate

MIN_ROWS_FOR_STABLE_GEMM = 256
"""Matrix kernels for few rows sum in another order than those for many. With at least this many rows, a page's features are
bit for bit the same whichever other pages are encoded or merged with it, cached or not, pruned before or after. This was
measured on CPUs; a card may choose its kernels differently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchLayout:
    """Positions of the patches of a batch on their pages. P patches of all pages."""

    positions: torch.Tensor  # int32 (2, P): row and column
    neighbours: torch.Tensor  # int32 (4, P): entries of the learned position table around each patch
    weights: torch.Tensor  # float32 (4, P): bilinear weights of the neighbours
    cu_seqlens: torch.Tensor  # int32 (pages + 1,), on the host: boundaries of the pages
    max_seqlen: int

    def upload(self, device: torch.device) -> "PatchLayout":
        """The layout with its tables on `device`, except the boundaries, which the attention kernel places."""
        return PatchLayout(
            positions=upload(self.positions, device),
            neighbours=upload(self.neighbours, device),
            weights=upload(self.weights, device),
            cu_seqlens=self.cu_seqlens,
            max_seqlen=self.max_seqlen,
        )


def lay_out_patches(pages: Sequence[PreparedPage], config: VisionConfig) -> PatchLayout:
    """The layout of `pages` end to end, on the host. An empty page fills it up to `MIN_ROWS_FOR_STABLE_GEMM` visual tokens."""
    merge, side = config.spatial_merge_size, int(config.num_position_embeddings**0.5)
    sizes = [(page.rows, page.columns) for page in pages]
    if (missing := MIN_ROWS_FOR_STABLE_GEMM - sum(page.visual_token_count for page in pages)) > 0:
        sizes.append((1, missing))
    grids = [_page_layout(rows * merge, columns * merge, merge, side) for rows, columns in sizes]
    lengths = [positions.shape[1] for positions, _, _ in grids]
    positions, neighbours, weights = (torch.cat(tables, dim=1) for tables in zip(*grids, strict=True))
    return PatchLayout(
        positions=positions,
        neighbours=neighbours,
        weights=weights,
        cu_seqlens=torch.tensor([0, *accumulate(lengths)], dtype=torch.int32),
        max_seqlen=max(lengths),
    )


@lru_cache(maxsize=128)
def _page_layout(rows: int, columns: int, merge: int, side: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positions, neighbours and weights of one page of rows x columns patches, in merge-block order."""
    row, column = _merge_block_order(rows, columns, merge)  # each (P,)
    low_row, high_row, row_share = (table[row] for table in _interpolation(rows, side))  # each (P,)
    low_column, high_column, column_share = (table[column] for table in _interpolation(columns, side))
    neighbours = torch.stack([r * side + c for r in (low_row, high_row) for c in (low_column, high_column)])  # (4, P)
    # (4, P)
    weights = torch.stack([r * c for r in (1 - row_share, row_share) for c in (1 - column_share, column_share)])
    return torch.stack([row, column]).int(), neighbours.int(), weights


def _merge_block_order(rows: int, columns: int, merge: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column of every patch, each int64 (P,), with the patches of one visual token next to each other."""
    grid = torch.arange(rows * columns).view(rows // merge, merge, columns // merge, merge)
    order = grid.permute(0, 2, 1, 3).flatten()  # (P,)
    return order // columns, order % columns


def _interpolation(count: int, side: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Spread `count` places evenly over `side` table entries. For each: entry below, entry above, weight of the latter."""
    places = torch.linspace(0, side - 1, count)
    low = places.long()
    return low, (low + 1).clamp(max=side - 1), places - low


class VisionEncoder(nn.Module):
    """Patch embedding, blocks, and a merger that turns 2 x 2 patches into one visual token.

    Some blocks also output DeepStack features, which their own mergers project to the text width.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbedding(config)
        # nn.Embedding(…) would initialise a table by normal_(), which on the meta device imports torch's compiler (0.7 s).
        table = torch.empty(config.num_position_embeddings, config.hidden_size)
        self.pos_embed = nn.Embedding.from_pretrained(table, freeze=False)  # type: ignore[no-untyped-call]
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))
        self.merger = PatchMerger(config, norm_size=config.hidden_size)
        self.deepstack_merger_list = nn.ModuleList(
            PatchMerger(config, norm_size=config.hidden_size * config.merge_unit)
            for _ in config.deepstack_visual_indexes
        )

    def forward(
        self, patches: torch.Tensor, layout: PatchLayout, kernel: AttentionKernel, run_block: RunLayer
    ) -> VisualTokens:
        """Encode patches (P, 1536) of all pages: main features (P / 4, D), unmerged DeepStack features (P / 4, 4 * hidden)."""
        token_count = len(patches) // self.config.merge_unit
        hidden = self.patch_embed(_pad_rows(patches, layout.positions.shape[1]))  # (P, hidden), padded
        hidden = hidden + self._position_embeddings(layout).to(hidden.dtype)
        cos, sin = axial_cos_sin(layout.positions, head_dim=self.config.head_dim, dtype=hidden.dtype)  # (P, head_dim)
        pages = kernel.place(layout.cu_seqlens, layout.max_seqlen, hidden.device)
        attend = PackedAttention(kernel=kernel, queries=pages, keys=pages, causal=False)
        deepstack: list[torch.Tensor] = []
        for index, block in enumerate(self.blocks):
            hidden = run_block(block, hidden, cos, sin, attend)  # (P, hidden)
            if index in self.config.deepstack_visual_indexes:  # (P / 4, 4 * hidden)
                deepstack.append(hidden.view(-1, self.config.merge_unit * self.config.hidden_size)[:token_count])
        return VisualTokens(main=self.merger(hidden)[:token_count], deepstack=tuple(deepstack))

    def merge_deepstack(self, tokens: VisualTokens) -> VisualTokens:
        """The same tokens with merged DeepStack features (tokens, D). Rows are independent, so any subset may be merged."""
        return VisualTokens(
            main=tokens.main,
            deepstack=tuple(
                merger(_pad_rows(features, MIN_ROWS_FOR_STABLE_GEMM))[: len(features)]
                for merger, features in zip(self.deepstack_merger_list, tokens.deepstack, strict=True)
            ),
        )

    def _position_embeddings(self, layout: PatchLayout) -> torch.Tensor:
        """The learned table, bilinearly interpolated to every page's grid: float32 (P, hidden)."""
        total = torch.zeros(1, device=layout.weights.device)
        for neighbours, weights in zip(layout.neighbours, layout.weights, strict=True):  # each (P,)
            total = total + self.pos_embed(neighbours) * weights[:, None]  # (P, hidden)
        return total


def _pad_rows(rows: torch.Tensor, fewest: int) -> torch.Tensor:
    """Pad with zero rows to at least `fewest` rows."""
    missing = fewest - len(rows)
    return F.pad(rows, (0, 0, 0, missing)) if missing > 0 else rows


class PatchEmbedding(nn.Module):
    """A linear map of the flattened patch. The checkpoint stores its weights as a convolution's, which would be far slower."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(config.in_channels, config.hidden_size, kernel_size=size, stride=size)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)  # (P, hidden)


class VisionBlock(nn.Module):
    """Attention within each page and an MLP, each with a norm before it and a residual connection. States (P, hidden)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.attn = VisionAttention(config)
        self.mlp = VisionMlp(config)

    def forward(
        self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: PackedAttention
    ) -> torch.Tensor:
        hidden = hidden + self.attn(self.norm1(hidden), cos, sin, attend)
        out: torch.Tensor = hidden + self.mlp(self.norm2(hidden))
        return out


class VisionAttention(nn.Module):
    """Multi-head attention with one projection for queries, keys and values."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: PackedAttention
    ) -> torch.Tensor:
        q, k, v = self.qkv(hidden).view(len(hidden), 3, -1, self.head_dim).unbind(1)  # each (P, heads, head_dim)
        # Rotate in the tower's dtype. The published code rotates in float32, with twice the memory and bandwidth; in bfloat16
        # both are equally close to the float32 scores (tests/model/qwen3_vl/test_against_transformers.py).
        out: torch.Tensor = self.proj(attend(rotate(q, cos, sin), rotate(k, cos, sin), v).flatten(1))
        return out


class VisionMlp(nn.Module):
    """linear, GELU (tanh approximation), linear over (P, hidden)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.linear_fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.linear_fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear_fc2(linear_gelu(self.linear_fc1, hidden))
        return out


def linear_gelu(linear: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """GELU (tanh approximation) of a linear map, x (rows, in) to (rows, out).

    On a card cuBLAS fuses both, so that the widest activations of the tower are written and held once. The fused operation has
    no gradient, and on a CPU it would compute the exact GELU, so both cases run unfused.
    """
    if x.device.type == "cuda" and not torch.is_grad_enabled():
        return torch._addmm_activation(linear.bias, x, linear.weight.t(), use_gelu=True)
    return F.gelu(linear(x), approximate="tanh")


class PatchMerger(nn.Module):
    """Joins the four patches of a visual token and projects them to the text width.

    The main merger normalises each patch before joining (`norm_size` = hidden). The DeepStack mergers normalise the joined
    vector (`norm_size` = 4 * hidden).
    """

    def __init__(self, config: VisionConfig, *, norm_size: int) -> None:
        super().__init__()
        joined = config.hidden_size * config.merge_unit
        self.norm = nn.LayerNorm(norm_size, eps=1e-6)
        self.linear_fc1 = nn.Linear(joined, joined)
        self.linear_fc2 = nn.Linear(joined, config.out_hidden_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        normalised = self.norm(hidden.view(-1, *self.norm.normalized_shape))  # (P, hidden) or (P / 4, 4 * hidden)
        joined = normalised.view(-1, self.linear_fc1.in_features)  # (P / 4, 4 * hidden)
        out: torch.Tensor = self.linear_fc2(F.gelu(self.linear_fc1(joined)))  # (P / 4, D)
        return out
