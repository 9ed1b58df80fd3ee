"""What repeated measurements say: quantiles, how sure the median is, and whether a series has settled."""

from collections.abc import Sequence

import numpy as np

STEADY_COUNT = 5
STEADY_SPREAD = 0.03
"""A series has settled once five values in a row lie within 3 % of each other."""

_RESAMPLES = 2_000


def percentile(values: Sequence[float], percent: float) -> float:
    """By linear interpolation between the two nearest values; NaN of no values."""
    return float(np.percentile(values, percent)) if len(values) else float("nan")


def describe(values: Sequence[float]) -> dict[str, float]:
    """Median with its 95 % interval, p90, p95 and the least, of at least one value."""
    low, high = median_interval(values)
    figures = {
        "median": percentile(values, 50),
        "median_low": low,
        "median_high": high,
        "p90": percentile(values, 90),
        "p95": percentile(values, 95),
        "min": min(values),
    }
    return {name: round(value, 3) for name, value in figures.items()}


def median_interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the median by bootstrap: medians of samples drawn from the values with repetition."""
    generator = np.random.default_rng(seed)
    samples = generator.choice(np.asarray(values, dtype=float), size=(_RESAMPLES, len(values)))
    low, high = np.percentile(np.median(samples, axis=1), [2.5, 97.5])
    return float(low), float(high)


def is_steady(values: Sequence[float]) -> bool:
    """Whether the last five values differ by at most 3 % of the least of them."""
    last = values[-STEADY_COUNT:]
    return len(last) == STEADY_COUNT and max(last) <= min(last) * (1 + STEADY_SPREAD)
