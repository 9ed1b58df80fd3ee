"""The optimiser of training and its learning-rate schedule."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from model.training.errors import RunFileError
from model.training.run_file import OptimiserSection


def make_optimiser(
    parameters: Iterable[nn.Parameter], section: OptimiserSection, *, device: torch.device
) -> torch.optim.Optimizer:
    """An optimiser for the parameters that require gradients. Raises: RunFileError if `adamw_8bit` cannot run here."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    make = _adamw_8bit(device) if section.name == "adamw_8bit" else torch.optim.AdamW
    return make(trained, lr=section.learning_rate, weight_decay=section.weight_decay)


def _adamw_8bit(device: torch.device) -> type[torch.optim.AdamW]:
    """AdamW with block-wise 8-bit moments. Source: arXiv 2110.02861."""
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
    """The rate of a step from 1 to `step_count`: a linear warm-up, then half a cosine that reaches 0 after the last step.

    Source: SGDR (arXiv 1608.03983), one period, with linear warm-up.
    """
    if step <= section.warmup_steps:
        return section.learning_rate * step / section.warmup_steps
    share = (step - section.warmup_steps - 1) / (step_count - section.warmup_steps)
    return section.learning_rate * (1 + math.cos(math.pi * share)) / 2
