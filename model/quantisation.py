"""The decoder's linear maps with 8-bit weights: half the memory of bfloat16, with slightly different scores.

`fp8` rounds weights and activations row by row to 8-bit floats (e4m3) and sums the products in float32. Cards with fp8 matrix
products (Ada, Hopper and newer: compute capability 8.9) run them at twice the rate of bfloat16. A CPU slowly computes the same
numbers from the rounded values, to measure the change in ranking on any machine. `int8` rounds the weights alone and converts
them to the activations' dtype before each product: it saves memory but no time, and runs on every device in every dtype.
Source: row-wise scaling as in FBGEMM and torchao.
"""

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import nn

from model.device import Compute

E4M3 = torch.float8_e4m3fn
LARGEST = {E4M3: torch.finfo(E4M3).max, torch.int8: 127.0}

SCHEMES = ("none", "fp8", "int8")
"""In order of increasing rounding error."""

_MIN_MAGNITUDE = 1e-12  # replaces the largest value of a row of zeros
_VALUES_AT_ONCE = 2**22  # while rounding a weight: 16 MiB of float32

RoundRows = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Rounds x (rows, values) to 8-bit values of the same shape and float32 (rows, 1) scales, with values * scale close to x."""


def quantise_obstacle(scheme: str, compute: Compute) -> str | None:
    """The reason why the device cannot run a scheme, with the remedy; None if it can."""
    if scheme != "fp8" or compute.device.type != "cuda":
        return None
    capability = torch.cuda.get_device_capability(compute.device)
    if capability < (8, 9):
        return (
            f"{compute.description} has compute capability {capability[0]}.{capability[1]}; fp8 matrix products need 8.9 "
            "(Ada, Hopper or newer). Choose int8."
        )
    if compute.dtype != torch.bfloat16:
        return f"dtype is {compute.dtype_name}; fp8 matrix products return bfloat16. Choose dtype bfloat16, or int8."
    return None


def quantise_layers(layers: Iterable[nn.Module], scheme: str) -> None:
    """Replace the linear maps of each layer in place, one at a time. Quantised maps stay as they are."""
    if scheme == "none":
        return
    for layer in layers:
        for module in list(layer.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(module, name, quantised(child, child.weight, scheme))


def quantised(linear: nn.Linear, weight: torch.Tensor, scheme: str) -> nn.Module:
    """The `fp8` or `int8` replacement of `linear`, made from `weight` (out, in); `linear` itself may be on the meta device.

    Raises: ValueError for a linear map with a bias.
    """
    if "bias" in dict(linear.named_parameters()):
        raise ValueError(f"{linear} has a bias; only linear maps without one can be quantised.")
    return {"fp8": Fp8Linear, "int8": Int8Linear}[scheme](weight)


class Fp8Linear(nn.Module):
    """x W^T with weights rounded once and activations rounded in each call. x: (rows, in); the result: (rows, out)."""

    weight: torch.Tensor  # e4m3 (out, in)
    scale: torch.Tensor  # float32 (out, 1)

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        values, scale = _round_weight(weight, round_to_e4m3, E4M3)
        self.register_buffer("weight", values)
        self.register_buffer("scale", scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rounded, scale = round_to_e4m3(x)  # (rows, in), (rows, 1)
        if x.device.type == "cuda":
            out: torch.Tensor = torch._scaled_mm(
                rounded, self.weight.T, scale_a=scale, scale_b=self.scale.T, out_dtype=x.dtype, use_fast_accum=True
            )
            return out
        return F.linear(rounded.float().mul_(scale), self.weight.float().mul_(self.scale)).to(x.dtype)


class Int8Linear(nn.Module):
    """x W^T with weights rounded once and converted to the dtype of x in each call. x: (rows, in); the result: (rows, out)."""

    weight: torch.Tensor  # int8 (out, in)
    scale: torch.Tensor  # float32 (out, 1)

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        values, scale = _round_weight(weight, round_to_int8, torch.int8)
        self.register_buffer("weight", values)
        self.register_buffer("scale", scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self._weight_as(x.dtype))

    def _weight_as(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight (out, in), the only temporary. It is scaled before the product, because unscaled sums overflow float16."""
        scale = self.scale.to(dtype)
        if self.weight.device.type == "cuda":  # a single kernel; on a CPU this would copy the weight first
            return self.weight * scale
        return self.weight.to(dtype).mul_(scale)


def round_to_e4m3(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round x (rows, values) to e4m3 values and float32 (rows, 1) scales. Needs one float32 temporary of x's size."""
    scale = _largest_of_rows(x) / LARGEST[E4M3]
    return (x / scale).to(E4M3), scale


def round_to_int8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round x (rows, values) to int8 values, -127 to 127, and float32 (rows, 1) scales.

    Needs one float32 temporary of x's size.
    The scales are rounded to bfloat16 first, so that a bfloat16 forward pass uses them exactly. Rounding them later would
    stretch or shrink whole rows.
    """
    scale = (_largest_of_rows(x) / LARGEST[torch.int8]).bfloat16().float()
    return (x / scale).round_().to(torch.int8), scale


def _largest_of_rows(x: torch.Tensor) -> torch.Tensor:
    """The largest magnitude of each row, float32 (rows, 1). Needs no copy of x."""
    norm: torch.Tensor = torch.linalg.vector_norm(x, ord=math.inf, dim=-1, keepdim=True)
    return norm.float().clamp(min=_MIN_MAGNITUDE)


@torch.no_grad()
def _round_weight(weight: torch.Tensor, round_rows: RoundRows, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Round a weight a few rows at a time, so that no float32 copy of the whole weight is in memory."""
    values = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    scale = torch.empty(len(weight), 1, dtype=torch.float32, device=weight.device)
    rows_at_once = max(1, _VALUES_AT_ONCE // weight.shape[1])
    for start in range(0, len(weight), rows_at_once):
        rows = slice(start, start + rows_at_once)
        values[rows], scale[rows] = round_rows(weight[rows])
    return values, scale
