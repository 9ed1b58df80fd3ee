"""Attention written out in float32, and kernels beside it on the same random sequences."""

import math

import torch

from model.attention import AttentionKernel, PackedAttention

CPU = torch.device("cpu")


def attention_written_out(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: list[tuple[int, int]], *, causal: bool, scale: float
) -> torch.Tensor:
    """The definition, in float32: softmax of scaled products, the last query seeing every key."""
    group = q.shape[1] // k.shape[1]
    out, start_q, start_k = [], 0, 0
    for length_q, length_k in lengths:
        queries = q[start_q : start_q + length_q].float()
        keys = k[start_k : start_k + length_k].float().repeat_interleave(group, dim=1)
        values = v[start_k : start_k + length_k].float().repeat_interleave(group, dim=1)
        products = torch.einsum("qhd,khd->hqk", queries, keys) * scale
        if causal:
            row, column = torch.arange(length_q)[:, None], torch.arange(length_k)[None]
            products.masked_fill_((column > row + length_k - length_q).to(q.device), -math.inf)
        out.append(torch.einsum("hqk,khd->qhd", products.softmax(-1), values))
        start_q, start_k = start_q + length_q, start_k + length_k
    return torch.cat(out)


def run(
    kernel: AttentionKernel, lengths: list[tuple[int, int]], *, heads: tuple[int, int], head_dim: int, causal: bool,
    device: torch.device = CPU, dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """The kernel's result and the expected one."""
    torch.manual_seed(1)
    tokens_q, tokens_k = (sum(length[side] for length in lengths) for side in (0, 1))
    q = torch.randn(tokens_q, heads[0], head_dim).to(device, dtype)
    k, v = (torch.randn(tokens_k, heads[1], head_dim).to(device, dtype) for _ in range(2))
    queries, keys = (
        kernel.place(
            torch.tensor([0, *[length[side] for length in lengths]]).cumsum(0).int(),
            max(length[side] for length in lengths),
            device,
        )
        for side in (0, 1)
    )
    attend = PackedAttention(kernel=kernel, queries=queries, keys=keys, causal=causal)
    return attend(q, k, v), attention_written_out(q, k, v, lengths, causal=causal, scale=head_dim**-0.5)
