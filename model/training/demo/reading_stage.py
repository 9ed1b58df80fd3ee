"""Runs the first stage: pages are drawn, phase by phase anew, and the tower is asked about them."""

from pathlib import Path

import numpy as np
import torch

from model.config import ModelConfig
from model.network import Network
from model.training.demo.optimiser import Optimiser
from model.training.demo.page_pool import draw_pool
from model.training.demo.pages import Style
from model.training.demo.reading import BandSampler, Reader, ReadingReport
from model.training.demo.recipe import Recipe
from model.training.demo.stage import Stage


def learn_to_read(
    network: Network, config: ModelConfig, recipe: Recipe, style: Style, *, device: torch.device, state_file: Path
) -> None:
    """Train the tower and the words' embeddings in place; a run that stands in `state_file` is continued."""
    reader = Reader(network, config).to(device)
    stage = Stage(
        name="learning to read",
        module=reader,
        device=device,
        optimiser=Optimiser([reader], recipe.reading.rates, steps=recipe.reading.steps),
        steps=recipe.reading.steps,
        seed=recipe.seed,
        state_file=state_file,
    )
    done = stage.steps_done()
    for phase in range(recipe.reading.phases):
        steps = _steps_of(phase, recipe)
        left = range(max(done, steps.start), steps.stop)
        if left:
            pool = draw_pool(recipe.page_seeds(phase, recipe.reading.pages), style, config.image)
            sampler = BandSampler(pool, config, band_rows=recipe.reading.band_rows)

            def ask(step: int, chance: np.random.Generator, sampler: BandSampler = sampler) -> ReadingReport:
                report: ReadingReport = reader(sampler.sample(recipe.reading.bands, chance).upload(device))
                return report

            stage.run(left, ask)


def _steps_of(phase: int, recipe: Recipe) -> range:
    length = -(-recipe.reading.steps // recipe.reading.phases)
    return range(phase * length, min((phase + 1) * length, recipe.reading.steps))
