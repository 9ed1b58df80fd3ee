"""Layers run as they are written, or fused by torch.compile: chosen once, the same function either way.

One compiled function serves all layers of a tower at all lengths: weights and lengths are its inputs. Its first call compiles
(tens of seconds), so a service warms it up before it takes requests. Knows no model.
"""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.utils._triton import has_triton_package

from model.device import Compute
from model.errors import DeviceError

if TYPE_CHECKING:
    from model.attention import PackedAttention

RunLayer = Callable[[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor, "PackedAttention"], torch.Tensor]
"""layer, hidden (tokens, width), cos and sin (tokens, head_dim), attend -> hidden (tokens, width)."""

Compile = bool | Literal["auto"]

logger = logging.getLogger(__name__)


class LayerRunner:
    """Runs the layers of one tower, compiled where that was chosen and works.

    A compiler that fails ends no request: the layers run as written from then on, and `reason` tells why.
    """

    def __init__(self, layers: str, run: RunLayer, *, is_compiled: bool = False, reason: str = "as given") -> None:
        """layers: their name for the log; run: `run_layer`, compiled or not, or a function that stands for it."""
        self.is_compiled = is_compiled
        self.reason = reason
        self.seconds: float | None = None  # that the first compiled call took, compiling included
        self._layers = layers
        self._run = run

    def __call__(
        self, layer: nn.Module, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: "PackedAttention"
    ) -> torch.Tensor:
        """Call the layer: hidden (tokens, width) in and out."""
        if not self.is_compiled:
            return self._run(layer, hidden, cos, sin, attend)
        started = self._announce()
        try:
            out = self._run(layer, hidden, cos, sin, attend)
        except (torch.OutOfMemoryError, torch.AcceleratorError, DeviceError):
            raise
        except Exception as error:  # noqa: BLE001 (a compiler fails in many ways; a fault of the layer is raised below)
            out = run_layer(layer, hidden, cos, sin, attend)
            self._fall_back(error)
            return out
        if started is not None:
            self.seconds = time.perf_counter() - started
            logger.info("compiled the %s in %.1f s", self._layers, self.seconds)
        return out

    def _announce(self) -> float | None:
        """When the first compiled call began; None for later ones."""
        if self.seconds is not None:
            return None
        logger.info("compiling the %s; with an empty compile cache this takes up to a minute", self._layers)
        return time.perf_counter()

    def _fall_back(self, error: Exception) -> None:
        self.is_compiled, self._run = False, run_layer
        text = str(error).strip().partition("\n")[0]
        self.reason = f"torch.compile failed ({type(error).__name__}: {text}), so the layers run as they are written"
        logger.warning("the %s run uncompiled: %s", self._layers, self.reason, exc_info=error)


def choose_runner(compile: Compile, compute: Compute, layers: str, *, is_fp8: bool = False) -> LayerRunner:
    """For `auto`: compiled on a card, as written on a CPU. layers: their name for the log.

    8-bit floats want compiled layers: uncompiled, rounding the activations takes several passes over memory.
    """
    is_on, reason = decide_compilation(compile, compute)
    if is_fp8 and not is_on and compute.device.type == "cuda":
        reason += "; fp8 is slower than bfloat16 without it"
    run = torch.compile(run_layer, dynamic=True, fullgraph=True) if is_on else run_layer
    return LayerRunner(layers, run, is_compiled=is_on, reason=reason)


def decide_compilation(compile: Compile, compute: Compute) -> tuple[bool, str]:
    """Whether the layers are compiled, and why."""
    if compile == "auto":
        obstacle = _obstacle(compute)
        return obstacle is None, obstacle or "auto: a card gains by fused layers"
    return compile, "as asked"


def _obstacle(compute: Compute) -> str | None:
    if compute.device.type != "cuda":
        return "auto: a CPU gains little and compiles for long"
    if not has_triton_package():
        return "auto: Triton is not installed"
    if torch.cuda.get_device_capability(compute.device) < (7, 0):
        return "auto: Triton needs compute capability 7.0"
    return None


def run_layer(
    layer: nn.Module, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: "PackedAttention"
) -> torch.Tensor:
    """Call the layer."""
    out: torch.Tensor = layer(hidden, cos, sin, attend)
    return out
