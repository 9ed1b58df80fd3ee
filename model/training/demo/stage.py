"""The loop that every stage of the demo's training runs in: steps, log lines, saved states.

A step depends on the seed and its number alone, so a run that was broken off goes on as if it had not been. Knows no stage.
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
    """A frozen record of one step: the loss, and numbers to be averaged in the log."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def loss(self) -> torch.Tensor: ...


TakeStep = Callable[[int, np.random.Generator], Report]
"""The step's number and its chance -> what came out, with a loss to go against."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    name: str
    module: nn.Module  # all that is trained
    device: torch.device  # where it is
    optimiser: Optimiser
    steps: int
    seed: int
    state_file: Path

    def steps_done(self) -> int:
        """Of a run that was broken off, whose weights are taken over; 0 where there was none."""
        if not self.state_file.exists():
            return 0
        state = torch.load(self.state_file, map_location=self.device, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        return int(state["steps"])

    def run(self, steps: range, take_step: TakeStep) -> None:
        """Those of the stage's steps."""
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
        """Whole or not at all."""
        unfinished = self.state_file.with_suffix(".unfinished")
        state = {"module": self.module.state_dict(), "optimiser": self.optimiser.state_dict(), "steps": steps}
        torch.save(state, unfinished)
        os.replace(unfinished, self.state_file)


def _means(reports: Collection[Report]) -> str:
    names = [field.name for field in fields(next(iter(reports)))]
    means = {name: np.nanmean([float(getattr(report, name)) for report in reports]) for name in names}
    return ", ".join(f"{name.replace('_', ' ')} {mean:.3f}" for name, mean in means.items())
