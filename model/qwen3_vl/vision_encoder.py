"""The vision tower: patches of many pages, end to end, to visual tokens and DeepStack features.

Attention never crosses pages, so pages of different sizes and requests share one pass without padding. Parameter names are
the checkpoint's (`model.visual.…`). Knows neither queries nor prompts: nothing here depends on them.
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
"""Matrix kernels for a few rows add up in another order than those for many. With as many rows as this, a page's features do
not depend on what is encoded or merged with it: pruned before or after, cached or not, the bits are the same (so on the CPUs
tried; a card may choose its kernels otherwise)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchLayout:
    """Where the patches of a batch lie on their pages. P patches over all pages."""

    positions: torch.Tensor  # int32 (2, P): row and column
    neighbours: torch.Tensor  # int32 (4, P): entries of the learned position table around each patch
    weights: torch.Tensor  # float32 (4, P): bilinear weights of the neighbours
    cu_seqlens: torch.Tensor  # int32 (pages + 1,), on the host
    max_seqlen: int

    def upload(self, device: torch.device) -> "PatchLayout":
        """The same with its tables on `device`; the boundaries stay, the attention kernel places them."""
        return PatchLayout(
            positions=upload(self.positions, device),
            neighbours=upload(self.neighbours, device),
            weights=upload(self.weights, device),
            cu_seqlens=self.cu_seqlens,
            max_seqlen=self.max_seqlen,
        )


def lay_out_patches(pages: Sequence[PreparedPage], config: VisionConfig) -> PatchLayout:
    """The layout of `pages` end to end, on the host, filled up with an empty page to `MIN_ROWS_FOR_STABLE_GEMM`."""
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
    low_row, high_row, row_share = (table[row] for table in _between(rows, side))  # each (P,)
    low_column, high_column, column_share = (table[column] for table in _between(columns, side))
    neighbours = torch.stack([r * side + c for r in (low_row, high_row) for c in (low_column, high_column)])  # (4, P)
    weights = torch.stack([r * c for r in (1 - row_share, row_share) for c in (1 - column_share, column_share)])
    return torch.stack([row, column]).int(), neighbours.int(), weights


def _merge_block_order(rows: int, columns: int, merge: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column of every patch, the patches of one visual token next to each other."""
    grid = torch.arange(rows * columns).view(rows // merge, merge, columns // merge, merge)
    order = grid.permute(0, 2, 1, 3).flatten()  # (P,)
    return order // columns, order % columns


def _between(count: int, side: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For `count` places spread over a table of `side` entries: the entry below, the one above, the share of the latter."""
    places = torch.linspace(0, side - 1, count)
    low = places.long()
    return low, (low + 1).clamp(max=side - 1), places - low


class VisionEncoder(nn.Module):
    """The vision tower: patch embedding, blocks, and a merger that makes one visual token of 2 x 2 patches.

    Some blocks also give DeepStack features, which mergers of their own bring to the text width.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbedding(config)
        # An Embedding made without a table fills one by normal_(), which on the meta device imports torch's compiler (0.7 s).
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
        """patches (P, 1536) of all pages to visual tokens: main (P / 4, D), DeepStack (P / 4, 4 * hidden) not yet merged."""
        token_count = len(patches) // self.config.merge_unit
        hidden = self.patch_embed(_with_rows(patches, layout.positions.shape[1]))  # (P, hidden), filled up
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
        """The same tokens with DeepStack features (tokens, D). Any rows will do: each is merged for itself."""
        return VisualTokens(
            main=tokens.main,
            deepstack=tuple(
                merger(_with_rows(features, MIN_ROWS_FOR_STABLE_GEMM))[: len(features)]
                for merger, features in zip(self.deepstack_merger_list, tokens.deepstack, strict=True)
            ),
        )

    def _position_embeddings(self, layout: PatchLayout) -> torch.Tensor:
        """The learned table, interpolated bilinearly to every page's grid: float32 (P, hidden)."""
        total = torch.zeros(1, device=layout.weights.device)
        for neighbours, weights in zip(layout.neighbours, layout.weights, strict=True):  # each (P,)
            total = total + self.pos_embed(neighbours) * weights[:, None]  # (P, hidden)
        return total


def _with_rows(rows: torch.Tensor, fewest: int) -> torch.Tensor:
    """Filled up with zeros."""
    missing = fewest - len(rows)
    return F.pad(rows, (0, 0, 0, missing)) if missing > 0 else rows


class PatchEmbedding(nn.Module):
    """A linear map of the flattened patch. The checkpoint stores it as the weights of a convolution, which is far slower."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(config.in_channels, config.hidden_size, kernel_size=size, stride=size)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class VisionBlock(nn.Module):
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
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: PackedAttention
    ) -> torch.Tensor:
        q, k, v = self.qkv(hidden).view(len(hidden), 3, -1, self.head_dim).unbind(1)  # each (P, heads, head_dim)
        # In the tower's dtype: the published code turns in float32, at twice the memory and its traffic. In bfloat16 the scores
        # stay as close to float32's as the published code's do (tests/model/qwen3_vl/test_against_transformers.py).
        out: torch.Tensor = self.proj(attend(rotate(q, cos, sin), rotate(k, cos, sin), v).flatten(1))
        return out


class VisionMlp(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.linear_fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.linear_fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear_fc2(linear_gelu(self.linear_fc1, hidden))
        return out


def linear_gelu(linear: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """GELU (tanh approximation) of a linear map, x (rows, in) to (rows, out).

    cuBLAS applies it before the product is written, so that a card writes and holds the widest activations of the tower once.
    The operation has no gradient, and on a CPU computes the exact GELU.
    """
    if x.device.type == "cuda" and not torch.is_grad_enabled():
        return torch._addmm_activation(linear.bias, x, linear.weight.t(), use_gelu=True)
    return F.gelu(linear(x), approximate="tanh")


class PatchMerger(nn.Module):
    """Joins the four patches of a visual token and maps them to the text width.

    The main merger normalises each patch before joining (`norm_size` = the patch width), the DeepStack mergers the joined
    vector (`norm_size` = four times that).
    """

    def __init__(self, config: VisionConfig, *, norm_size: int) -> None:
        super().__init__()
        joined = config.hidden_size * config.merge_unit
        self.norm = nn.LayerNorm(norm_size, eps=1e-6)
        self.linear_fc1 = nn.Linear(joined, joined)
        self.linear_fc2 = nn.Linear(joined, config.out_hidden_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        normalised = self.norm(hidden.view(-1, *self.norm.normalized_shape))
        joined = normalised.view(-1, self.linear_fc1.in_features)  # (P / 4, 4 * hidden)
        out: torch.Tensor = self.linear_fc2(F.gelu(self.linear_fc1(joined)))  # (P / 4, D)
        return out
