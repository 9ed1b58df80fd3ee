"""The decoder's matrix products in 8-bit floats: weights and activations rounded row by row, products summed in float32.

Twice the matrix rate of bfloat16 on cards that have it (compute capability 8.9 and newer), half the memory, and not exact: off
by default. On a CPU the same numbers are computed from the rounded values, slowly, so that the change in ranking can be
measured anywhere.  Source: row-wise scaling as in FBGEMM and torchao.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

from model.errors import ConfigurationError

E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max


def quantise_linears(layers: Iterable[nn.Module], device: torch.device) -> None:
    """Replace every linear map in `layers` in place.

    Raises: ConfigurationError for a card without 8-bit products.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        raise ConfigurationError("fp8 is on, but it needs compute capability 8.9. Switch it off.")
    for layer in layers:
        for module in list(layer.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(module, name, Fp8Linear(child))


class Fp8Linear(nn.Module):
    """x W^T for a linear map without bias (the decoder has no other): weights rounded once, inputs as they come."""

    weight: torch.Tensor  # e4m3 (out, in)
    scale: torch.Tensor  # float32 (out, 1)

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = quantise_rows(linear.weight)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rounded, scale = quantise_rows(x)
        if x.device.type == "cuda":
            out: torch.Tensor = torch._scaled_mm(
                rounded, self.weight.T, scale_a=scale, scale_b=self.scale.T, out_dtype=x.dtype, use_fast_accum=True
            )
            return out
        return F.linear(rounded.float() * scale, self.weight.float() * self.scale).to(x.dtype)


def quantise_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x (rows, values) to e4m3 values and float32 (rows, 1) scales, so that values * scale is close to x."""
    x = x.float()
    scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / LARGEST
    return (x / scale).to(E4M3), scale
