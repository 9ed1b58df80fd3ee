"""The training loop of all stages of the demo training: steps, log lines, saved states.

The random choices of a step depend only on the seed and its number, so a resumed run takes the same steps as an uninterrupted
one.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from model.training.demo.optimiser import Optimiser

_SAVE_EVERY = 250
_REPORT_EVERY = 50

logger = logging.getLogger(__name__)


class Report(Protocol):
    """A frozen dataclass with the loss of one step and other numbers. The log shows their means."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def loss(self) -> torch.Tensor: ...


TakeStep = Callable[[int, np.random.Generator], Report]
"""A function from the number of a step and a random generator to the report, whose loss is then minimised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage (or course) of the training, and its saved state."""

    name: str
    module: nn.Module  # holds all trained parameters
    device: torch.device  # of the module
    optimiser: Optimiser
    steps: int
    seed: int
    state_file: Path

    def steps_done(self) -> int:
        """Load the saved state, if any. Returns the number of steps that it has completed, else 0."""
        if not self.state_file.exists():
            return 0
        state = torch.load(self.state_file, map_location=self.device, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        return int(state["steps"])

    def run(self, steps: range, take_step: TakeStep) -> None:
        """Take the given steps, with log lines and saved states in between and a saved state at the end."""
        reports: deque[Report] = deque(maxlen=_REPORT_EVERY)
        started = time.monotonic()
        for step in tqdm(steps, desc=self.name, initial=steps.start, total=self.steps):
            torch.manual_seed(self.seed * 1_000_003 + step)
            with torch.autocast(self.device.type, torch.bfloat16):
                report = take_step(step, np.random.default_rng((self.seed, step)))
            self.optimiser.step(report.loss, step)
            reports.append(report)
            if (step + 1) % _REPORT_EVERY == 0:
                logger.info("%s: step %d, %.0f s: %s", self.name, step + 1, time.monotonic() - started, _means(reports))
            if (step + 1) % _SAVE_EVERY == 0 or step + 1 == steps.stop:
                self._save(step + 1)

    def _save(self, steps: int) -> None:
        """Write the state to a temporary file and rename it, so that the saved state is always complete."""
        unfinished = self.state_file.with_suffix(".unfinished")
        state = {"module": self.module.state_dict(), "optimiser": self.optimiser.state_dict(), "steps": steps}
        torch.save(state, unfinished)
        os.replace(unfinished, self.state_file)


def _means(reports: Collection[Report]) -> str:
    names = [field.name for field in fields(next(iter(reports)))]
    means = {name: np.nanmean([float(getattr(report, name)) for report in reports]) for name in names}
    return ", ".join(f"{name.replace('_', ' ')} {mean:.3f}" for name, mean in means.items())
