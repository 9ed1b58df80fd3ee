"""Layers run as they are written, or fused by torch.compile: chosen once, the same function either way.

One compiled function serves all layers of a tower at all lengths: weights and lengths are its inputs. Its first calls compile
(tens of seconds), so a service warms it up before it takes requests. Knows no model.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from model.attention import PackedAttention

RunLayer = Callable[[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor, "PackedAttention"], torch.Tensor]
"""layer, hidden (tokens, width), cos and sin (tokens, head_dim), attend -> hidden (tokens, width)."""


def choose_runner(compile: bool) -> RunLayer:
    """`run_layer` as it is, or compiled for every length at once."""
    return torch.compile(run_layer, dynamic=True, fullgraph=True) if compile else run_layer


def run_layer(
    layer: nn.Module, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: "PackedAttention"
) -> torch.Tensor:
    """Call the layer."""
    out: torch.Tensor = layer(hidden, cos, sin, attend)
    return out
