"""Rotary position embeddings: interleaved M-RoPE for the decoder, two axes (row, column) for the vision tower.

Source: Qwen3-VL (transformers `modeling_qwen3_vl`), RoFormer.
"""

from functools import lru_cache

import torch


def mrope_cos_sin(
    positions: torch.Tensor, *, head_dim: int, theta: float, sections: tuple[int, int, int], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines (S, head_dim) for positions int64 (3, S) of time, height and width.

    Frequency 3j+1 belongs to height for j < sections[1], 3j+2 to width for j < sections[2], and all others to time.
    """
    axes = _mrope_axes(head_dim // 2, sections)
    frequencies = _inverse_frequencies(head_dim, theta, positions.device)
    angles = torch.stack([positions[axis] for axis in axes], dim=-1).float() * frequencies  # (S, head_dim / 2)
    angles = torch.cat((angles, angles), dim=-1)  # (S, head_dim)
    return angles.cos().to(dtype), angles.sin().to(dtype)


@lru_cache
def _mrope_axes(frequency_count: int, sections: tuple[int, int, int]) -> tuple[int, ...]:
    axes = [0] * frequency_count
    for axis in (1, 2):
        for index in range(axis, 3 * sections[axis], 3):
            axes[index] = axis
    return tuple(axes)


def axial_cos_sin(
    positions: torch.Tensor, *, head_dim: int, dtype: torch.dtype, theta: float = 10_000.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines (P, head_dim) for patch positions int32 (2, P) of row and column."""
    frequencies = _inverse_frequencies(head_dim // 2, theta, positions.device)
    angles = (positions[:, :, None].float() * frequencies).transpose(0, 1).flatten(1)  # (P, head_dim / 2), rows first
    angles = torch.cat((angles, angles), dim=-1)  # (P, head_dim)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _inverse_frequencies(dim: int, theta: float, device: torch.device) -> torch.Tensor:
    exponents = torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim
    return 1.0 / (theta**exponents)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate x (tokens, heads, head_dim) by angles given as cos and sin (tokens, head_dim), pairing halves ("rotate-half")."""
    cos, sin = cos[:, None, :], sin[:, None, :]  # (tokens, 1, head_dim)
    first, second = x.chunk(2, dim=-1)  # each (tokens, heads, head_dim / 2)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
