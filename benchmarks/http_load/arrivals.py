"""When requests arrive and which pages they name: chance with a seed, so that two runs meet the same load."""

from dataclasses import dataclass

import numpy as np


def poisson_arrivals(rate: float, count: int, *, seed: int) -> list[float]:
    """`count` times of arrival, in seconds from the start, `rate` of them a second on average, independent of each other."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, count)
    return [float(time) for time in np.cumsum(gaps)]


def zipf_shares(count: int, exponent: float) -> np.ndarray:
    """Share of the draws that falls to each of `count` things: the n-th gets 1 / n^exponent of the first; 0 is uniform."""
    weights: np.ndarray = np.arange(1, count + 1) ** -float(exponent)
    shares: np.ndarray = weights / weights.sum()
    return shares


@dataclass(frozen=True, slots=True, kw_only=True)
class Chooser:
    """Draws things by their numbers, the first most often."""

    shares: np.ndarray  # float64 (things,), sums to 1
    generator: np.random.Generator

    def draw(self, count: int) -> list[int]:
        """`count` different numbers."""
        chosen = self.generator.choice(len(self.shares), size=count, replace=False, p=self.shares)
        return [int(number) for number in chosen]


def make_chooser(count: int, exponent: float, *, seed: int) -> Chooser:
    return Chooser(shares=zipf_shares(count, exponent), generator=np.random.default_rng(seed))
