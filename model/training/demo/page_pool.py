"""Draws pools of thousands of synthetic pages with their labels, in parallel processes."""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from tqdm import tqdm

from model.config import ImageConfig
from model.image_processor import prepare_page
from model.training.demo.pages import HEIGHT, WIDTH, Style, draw_page
from model.training.demo.reading_labels import Grid, ReadingLabels, label_page, stack

_SEEDS_AT_ONCE = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class PagePool:
    """N synthetic pages of one size, with their labels."""

    pixels: np.ndarray  # uint8 (N, height, width): grey, on the model's grid
    labels: ReadingLabels  # each array with a first axis of N
    known_words: tuple[frozenset[int], ...]  # of each page, as places in `vocabulary.words()`

    def __len__(self) -> int:
        return len(self.pixels)

    def colour(self, number: int) -> np.ndarray:
        """A page in RGB, uint8 (height, width, 3)."""
        return np.repeat(self.pixels[number][:, :, None], 3, axis=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    pixels: np.ndarray
    labels: ReadingLabels
    known_words: frozenset[int]


def page_grid(image: ImageConfig) -> Grid:
    """The grid of the synthetic pages, in patches, under the image settings of a checkpoint."""
    page = prepare_page(np.zeros((HEIGHT, WIDTH, 3), np.uint8), image)
    return Grid(rows=page.pixels.shape[0] // image.patch_size, columns=page.pixels.shape[1] // image.patch_size)


def draw_pool(seeds: Sequence[int], style: Style, image: ImageConfig, *, fewest_words: int = 0) -> PagePool:
    """One page for each seed, without those that have fewer than `fewest_words` words. Equal seeds give equal pages."""
    chunks = [seeds[start : start + _SEEDS_AT_ONCE] for start in range(0, len(seeds), _SEEDS_AT_ONCE)]
    draw = partial(_draw_some, style=style, image=image, fewest_words=fewest_words)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as processes:
        drawn = [page for pages in _progress(processes.map(draw, chunks), len(chunks)) for page in pages]
    return PagePool(
        pixels=np.stack([page.pixels for page in drawn]),
        labels=stack([page.labels for page in drawn]),
        known_words=tuple(page.known_words for page in drawn),
    )


def _progress(chunks: Iterator[list[_Drawn]], count: int) -> Iterator[list[_Drawn]]:
    return iter(tqdm(chunks, total=count, desc="drawing pages", unit_scale=_SEEDS_AT_ONCE, leave=False))


def _draw_some(seeds: Sequence[int], *, style: Style, image: ImageConfig, fewest_words: int) -> list[_Drawn]:
    pages = (draw_page(seed, style) for seed in seeds)
    grid = page_grid(image)
    return [
        _Drawn(
            pixels=prepare_page(np.asarray(page.image.convert("RGB")), image).pixels[:, :, 0].copy(),
            labels=label_page(page, grid),
            known_words=page.known_words,
        )
        for page in pages
        if len(page.words) >= fewest_words
    ]
