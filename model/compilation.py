"""Runs layers uncompiled, or fused by torch.compile. The choice is made once; the call is the same for both.

One compiled function serves all layers of a tower at all lengths, because weights and lengths are its inputs. Its first call
compiles for tens of seconds, so the service warms it up before it accepts requests.
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
    """Runs the layers of one tower, compiled or not.

    If the compiler fails, the request still succeeds: the layers run uncompiled from then on, and `reason` states the failure.
    """

    def __init__(self, layers: str, run: RunLayer, *, is_compiled: bool = False, reason: str = "as given") -> None:
        """layers: their name for the log. run: `run_layer`, compiled or not, or a replacement of it."""
        self.is_compiled = is_compiled
        self.reason = reason
        self.seconds: float | None = None  # of the first compiled call, including compilation
        self._layers = layers
        self._run = run

    def __call__(
        self, layer: nn.Module, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: "PackedAttention"
    ) -> torch.Tensor:
        """Run the layer: hidden (tokens, width) in and out."""
        if not self.is_compiled:
            return self._run(layer, hidden, cos, sin, attend)
        is_first = self.seconds is None
        if is_first:
            logger.info("compiling the %s; this takes up to a minute if the compile cache is empty", self._layers)
        started = time.perf_counter()
        try:
            out = self._run(layer, hidden, cos, sin, attend)
        except (torch.OutOfMemoryError, torch.AcceleratorError, DeviceError):
            raise
        except Exception as error:  # noqa: BLE001 (a compiler may raise anything; the next line raises errors of the layer)
            out = run_layer(layer, hidden, cos, sin, attend)
            self._turn_off_compilation(error)
            return out
        if is_first:
            self.seconds = time.perf_counter() - started
            logger.info("compiled the %s in %.1f s", self._layers, self.seconds)
        return out

    def _turn_off_compilation(self, error: Exception) -> None:
        self.is_compiled, self._run = False, run_layer
        text = str(error).strip().partition("\n")[0]
        self.reason = f"torch.compile failed ({type(error).__name__}: {text}), so the layers run uncompiled"
        logger.warning("the %s run uncompiled: %s", self._layers, self.reason, exc_info=error)


def choose_runner(compile: Compile, compute: Compute, layers: str, *, is_fp8: bool = False) -> LayerRunner:
    """The runner for a `compile` setting; `auto` compiles on a card. layers: their name for the log.

    fp8 needs compiled layers to be fast: uncompiled, rounding the activations takes several passes over memory.
    """
    is_on, reason = decide_compilation(compile, compute)
    if is_fp8 and not is_on and compute.device.type == "cuda":
        reason += "; uncompiled fp8 is slower than bfloat16"
    run = torch.compile(run_layer, dynamic=True, fullgraph=True) if is_on else run_layer
    return LayerRunner(layers, run, is_compiled=is_on, reason=reason)


def decide_compilation(compile: Compile, compute: Compute) -> tuple[bool, str]:
    """Whether to compile the layers, and the reason."""
    if compile != "auto":
        return compile, "as asked"
    if compute.device.type != "cuda":
        return False, "auto: on a CPU compilation is slow and gains little"
    if not has_triton_package():
        return False, "auto: Triton is not installed"
    if torch.cuda.get_device_capability(compute.device) < (7, 0):
        return False, "auto: Triton needs compute capability 7.0 or higher"
    return True, "auto: fused layers are faster on a card"


def run_layer(
    layer: nn.Module, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: "PackedAttention"
) -> torch.Tensor:
    """Run the layer uncompiled."""
    out: torch.Tensor = layer(hidden, cos, sin, attend)
    return out
