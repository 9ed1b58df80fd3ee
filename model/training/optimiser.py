"""The optimiser and the course of its learning rate. Knows neither the network nor the loop."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from model.training.errors import RunFileError
from model.training.run_file import OptimiserSection


def make_optimiser(
    parameters: Iterable[nn.Parameter], section: OptimiserSection, *, device: torch.device
) -> torch.optim.Optimizer:
    """Over the parameters that are trained. Raises: RunFileError where the 8-bit kind cannot run."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    make = _adamw_8bit(device) if section.name == "adamw_8bit" else torch.optim.AdamW
    return make(trained, lr=section.learning_rate, weight_decay=section.weight_decay)


def _adamw_8bit(device: torch.device) -> type[torch.optim.AdamW]:
    """Moments in 8 bits, by blocks (arXiv 2110.02861)."""
    if device.type != "cuda":
        raise RunFileError(
            f"optimiser.name is adamw_8bit, which needs CUDA; the device is {device.type}. Choose adamw."
        )
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise RunFileError(
            "optimiser.name is adamw_8bit, which needs bitsandbytes (pip install bitsandbytes). Or choose adamw."
        ) from error
    optimiser: type[torch.optim.AdamW] = AdamW8bit
    return optimiser


def learning_rate_at(step: int, section: OptimiserSection, *, step_count: int) -> float:
    """Of step 1 to `step_count`: rises evenly over the warm-up, then falls along half a cosine to 0 after the last step.

    Source: SGDR (arXiv 1608.03983), one period, with linear warm-up.
    """
    if step <= section.warmup_steps:
        return section.learning_rate * step / section.warmup_steps
    share = (step - section.warmup_steps - 1) / (step_count - section.warmup_steps)
    return section.learning_rate * (1 + math.cos(math.pi * share)) / 2
