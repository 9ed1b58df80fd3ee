"""Pillow's bicubic resize as two matrix products, bit for bit, so that a card can do it.

Pillow resizes 8-bit images with weights rounded to 22 binary places, rows first, rounding to 8 bits after each direction. Sums
of such products stay below 2^53, so float64 adds them exactly in any order.  Source: Pillow `Resample.c`.
"""

import math
from collections.abc import Callable

import torch

_PLACES = 22
_BICUBIC_SUPPORT = 2.0
_BICUBIC_A = -0.5


def make_resize(
    size: tuple[int, int], new_size: tuple[int, int], device: torch.device
) -> Callable[[torch.Tensor], torch.Tensor]:
    """For pages uint8 (*size, 3) on `device` to uint8 (*new_size, 3), both (height, width)."""
    rows, columns = (weights(old, new).to(device) for old, new in zip(size, new_size, strict=True))

    def resize(pixels: torch.Tensor) -> torch.Tensor:
        wide = _rounded(pixels.permute(2, 0, 1).double() @ columns.T)
        return _rounded(rows @ wide).permute(1, 2, 0).to(torch.uint8)

    return resize


def _rounded(sums: torch.Tensor) -> torch.Tensor:
    """Sums of products with 22 binary places to whole 8-bit values."""
    return ((sums + 2.0 ** (_PLACES - 1)) / 2.0**_PLACES).floor().clamp(0, 255)


def weights(size: int, new_size: int) -> torch.Tensor:
    """float64 (new_size, size): whole numbers, each row the weights of one new pixel in units of 2^-22."""
    scale = size / new_size
    filter_scale = max(scale, 1.0)
    support = _BICUBIC_SUPPORT * filter_scale
    table = torch.zeros(new_size, size, dtype=torch.float64)
    for index in range(new_size):
        center = (index + 0.5) * scale
        first = max(0, int(center - support + 0.5))
        last = min(size, int(center + support + 0.5))
        values = [_bicubic((place - center + 0.5) / filter_scale) for place in range(first, last)]
        total = sum(values)
        table[index, first:last] = torch.tensor([_to_places(value / total) for value in values], dtype=torch.float64)
    return table


def _bicubic(distance: float) -> float:
    x = abs(distance)
    if x < 1:
        return ((_BICUBIC_A + 2) * x - (_BICUBIC_A + 3)) * x * x + 1
    if x < 2:
        return (((x - 5) * x + 8) * x - 4) * _BICUBIC_A
    return 0.0


def _to_places(weight: float) -> int:
    """Rounded half away from zero."""
    return math.trunc(weight * 2.0**_PLACES + math.copysign(0.5, weight))
