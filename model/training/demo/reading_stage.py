"""Runs the first stage of the demo training: draws new pages in each phase, and trains the vision tower to read them.

The courses go from small to large pages. On a small page a word covers few patches, so more words fit into a step; larger pages
then separate the words that shared a visual token. A tower that was trained on bands of four rows only cannot read whole pages:
it recognised 0.90 of the words in bands of four or eight rows, but 0.46 on pages of sixteen. So the last course has bands of
many heights.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from model.config import ModelConfig
from model.qwen3_vl.network import Network
from model.training.demo.optimiser import Optimiser
from model.training.demo.page_pool import draw_pool
from model.training.demo.pages import Style
from model.training.demo.reading import BandSampler, Reader, ReadingReport
from model.training.demo.recipe import Reading, Recipe
from model.training.demo.stage import Stage

_POOLS_A_COURSE = 10


def learn_to_read(
    network: Network, config: ModelConfig, recipe: Recipe, style: Style, *, device: torch.device, work: Path
) -> None:
    """Train the vision tower and the word embeddings in place. Resumes an interrupted run from its state in `work`."""
    reader = Reader(network, config).to(device)
    for number, course in enumerate(recipe.reading, start=1):
        stage = Stage(
            name=f"learning to read {number}",
            module=reader,
            device=device,
            optimiser=Optimiser([reader], course.rates, steps=course.steps),
            steps=course.steps,
            seed=recipe.seed,
            state_file=work / f"reading-{number}.pt",
        )
        _run(stage, reader, config, recipe, style, course, first_pool=(number - 1) * _POOLS_A_COURSE)


def _run(
    stage: Stage, reader: Reader, config: ModelConfig, recipe: Recipe, style: Style, course: Reading, *, first_pool: int
) -> None:
    config = replace(config, image=replace(config.image, max_pixels=course.most_pixels))
    done = stage.steps_done()
    for phase in range(course.phases):
        steps = _steps_of(phase, course)
        left = range(max(done, steps.start), steps.stop)
        if left:
            pool = draw_pool(recipe.page_seeds(first_pool + phase, course.pages), style, config.image)
            sampler = BandSampler(pool, config)

            def ask(step: int, chance: np.random.Generator, sampler: BandSampler = sampler) -> ReadingReport:
                rows = int(chance.choice(course.band_rows))
                report: ReadingReport = reader(sampler.sample(course.tokens, rows, chance).upload(stage.device))
                return report

            stage.run(left, ask)


def _steps_of(phase: int, course: Reading) -> range:
    length = -(-course.steps // course.phases)
    return range(phase * length, min((phase + 1) * length, course.steps))
