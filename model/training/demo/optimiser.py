"""The optimiser of the demo model: Muon for the matrices, AdamW for all other parameters, one schedule for both.

Muon is torch.optim.Muon (Jordan et al. 2024). It was not compared with AdamW alone here.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_WARMUP_STEPS = 50
_LAST_SHARE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningRates:
    """The highest learning rates. At the same rate Muon and AdamW make updates of about the same size."""

    matrices: float = 0.01
    others: float = 0.002


class Optimiser:
    """Muon and AdamW with one learning-rate schedule: short warm-up, constant for `level_share` of the steps, half a cosine."""

    def __init__(
        self, modules: Iterable[nn.Module], rates: LearningRates, *, steps: int, level_share: float = 0.6
    ) -> None:
        parameters = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}
        tables = {id(p) for module in modules for p in _tables(module)}
        matrices = [p for key, p in parameters.items() if p.ndim == 2 and key not in tables]
        others = [p for key, p in parameters.items() if p.ndim != 2 or key in tables]
        self._parameters = list(parameters.values())
        self._steps = steps
        self._level_share = level_share
        self._rates = (rates.matrices, rates.others)
        self._optimisers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=rates.matrices, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=rates.others, betas=(0.9, 0.98), weight_decay=0.0),
        ]

    def step(self, loss: torch.Tensor, step: int) -> None:
        """Compute the gradient of `loss` and update the parameters. `step` counts from 0."""
        for optimiser, rate in zip(self._optimisers, self._rates, strict=True):
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = rate * self.share(step)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters, 5.0)
        for optimiser in self._optimisers:
            optimiser.step()

    def share(self, step: int) -> float:
        """The learning rate at `step`, as a share of the highest rate."""
        progress = step / self._steps
        falling = max(0.0, (progress - self._level_share) / (1 - self._level_share))
        return min(1.0, (step + 1) / _WARMUP_STEPS) * (
            _LAST_SHARE + (1 - _LAST_SHARE) * (1 + math.cos(math.pi * falling)) / 2
        )

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimiser.state_dict() for optimiser in self._optimisers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for optimiser, state in zip(self._optimisers, states, strict=True):
            optimiser.load_state_dict(state)


def _tables(module: nn.Module) -> Iterable[torch.Tensor]:
    """The weights of embeddings. Muon does not suit them: they are lookup tables, not matrices to multiply by."""
    return [part.weight for part in module.modules() if isinstance(part, nn.Embedding)]
