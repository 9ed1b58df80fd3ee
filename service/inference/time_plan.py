"""Chooses, by measured rates, the work of one request that fits the time left. Knows no clock, no queue and no model.

The first of these that fits is taken: the work as it was asked for; a lower keep ratio; a tournament instead of sliding
windows; both; fewer pages, the first of the given order; the given order without any ranking.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from model import WindowStrategy

_KEEP_RATIO_STEP = 0.01
_FEWEST_PAGES = 2  # one page alone has no order


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Seconds, as they were measured: of a token by the size class of its batch, whose larger ones may be slower or faster."""

    visual_token: Mapping[int, float] = field(default_factory=dict)  # of a page, that is encoded
    language_token: Mapping[int, float] = field(default_factory=dict)  # of a window, after pruning
    batch: float = 0.0  # of each batch, beside those


def size_class(tokens: float) -> int:
    """Sizes of one class differ at most by a factor of two."""
    return round(math.log2(max(tokens, 1.0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class PageCost:
    """One page of a request, in the measures of the work on it."""

    visual_tokens: float  # before pruning
    is_encoded: bool  # its features are in the cache
    load_seconds: float = 0.0  # until the model can take it; 0 for a page that is loaded


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingJob:
    """The ranking that a request asks for, or its rest."""

    pages: Sequence[PageCost]  # in the given order
    keep_ratio: float
    min_keep_ratio: float
    window_size: int
    stride: int
    window_strategy: WindowStrategy
    text_tokens: float  # of each window's prompt
    keeps_features: bool  # a page that is in several windows is encoded once


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A choice."""

    keep_ratio: float
    window_strategy: WindowStrategy
    ranked_pages: int  # the first ones of the given order; 0: the given order is the answer
    windows: int
    load_seconds: float  # expected, until these pages are loaded
    device_seconds: float  # expected, for all windows together

    @property
    def seconds(self) -> float:
        """Expected, without waiting for others."""
        return self.load_seconds + self.device_seconds


Wait = Callable[[Work], float]
"""The seconds for which the work of others on the device holds up the given work."""


def full_work(job: RankingJob, rates: Rates) -> Work:
    """The work as it was asked for."""
    return _Costs(job, rates).work(job.keep_ratio, job.window_strategy, len(job.pages))


def choose_work(job: RankingJob, rates: Rates, seconds_left: float, *, wait: Wait) -> Work:
    """The first choice of the list above that is expected to take no longer than `seconds_left`; else the given order."""
    costs = _Costs(job, rates)

    def fits(work: Work) -> bool:
        return work.seconds + wait(work) <= seconds_left

    choice = next((work for work in _over_all_pages(job, costs) if fits(work)), None)
    return choice or _over_fewer_pages(job, costs, fits)


def choose_keep_ratio(job: RankingJob, rates: Rates, seconds_left: float, *, wait: Wait) -> Work:
    """Like `choose_work`, for a ranking that has begun: only the keep ratio is chosen, at worst the lowest."""
    costs = _Costs(job, rates)
    work = costs.work(job.min_keep_ratio, job.window_strategy, len(job.pages))
    for keep_ratio in _keep_ratios(job):
        work = costs.work(keep_ratio, job.window_strategy, len(job.pages))
        if work.seconds + wait(work) <= seconds_left:
            break
    return work


def window_sizes(strategy: WindowStrategy, page_count: int, *, window_size: int, stride: int) -> list[int]:
    """The pages of each window that a ranking of so many pages takes."""
    if strategy == "sliding" or window_size == 1:
        step = stride if strategy == "sliding" else 1
        ends = [page_count]
        while ends[-1] > window_size:
            ends.append(ends[-1] - step)
        return [min(end, window_size) for end in ends]
    sizes: list[int] = []
    finalists = page_count
    while finalists > window_size:
        groups = -(-finalists // window_size)
        group_sizes = [finalists // groups + (place < finalists % groups) for place in range(groups)]
        sizes += group_sizes
        places = max(1, window_size // groups)
        finalists = sum(min(size, places) for size in group_sizes)
    return [*sizes, finalists]


def _rate(rates: Mapping[int, float], tokens: float) -> float:
    """That of the nearest size class that was measured, the larger one of two; 0 where none was."""
    wanted = size_class(tokens)
    return min(rates.items(), key=lambda item: (abs(item[0] - wanted), -item[0]), default=(0, 0.0))[1]


def _over_all_pages(job: RankingJob, costs: "_Costs") -> Iterator[Work]:
    count = len(job.pages)
    strategies: list[WindowStrategy] = [job.window_strategy]
    if job.window_strategy == "sliding" and costs.has_smaller_tournament(count):
        strategies.append("tournament")
    for strategy in strategies:
        for keep_ratio in _keep_ratios(job):
            yield costs.work(keep_ratio, strategy, count)


def _over_fewer_pages(job: RankingJob, costs: "_Costs", fits: Callable[[Work], bool]) -> Work:
    """The largest number of pages that fits with the lowest keep ratio, and for them the highest keep ratio that fits."""
    for count in range(len(job.pages) - 1, _FEWEST_PAGES - 1, -1):
        use_tournament = job.window_strategy == "sliding" and costs.has_smaller_tournament(count)
        strategy: WindowStrategy = "tournament" if use_tournament else job.window_strategy
        least = costs.work(job.min_keep_ratio, strategy, count)
        if fits(least):
            choices = (costs.work(keep_ratio, strategy, count) for keep_ratio in _keep_ratios(job))
            return next((work for work in choices if fits(work)), least)
    return costs.work(job.keep_ratio, job.window_strategy, 0)


def _keep_ratios(job: RankingJob) -> Iterator[float]:
    """From that of the job to the lowest one, in even hundredths between."""
    yield job.keep_ratio
    step = round(job.keep_ratio / _KEEP_RATIO_STEP)
    while (step := step - 1) * _KEEP_RATIO_STEP > job.min_keep_ratio:
        if step * _KEEP_RATIO_STEP < job.keep_ratio:
            yield round(step * _KEEP_RATIO_STEP, 2)
    if job.min_keep_ratio < job.keep_ratio:
        yield job.min_keep_ratio


class _Costs:
    """The expected seconds of choices for one job."""

    def __init__(self, job: RankingJob, rates: Rates) -> None:
        self._job = job
        self._rates = rates
        self._sizes: dict[tuple[WindowStrategy, int], list[int]] = {}
        # Sums over the first 0, 1, 2, … pages.
        self._visual, self._unknown, self._load = [0.0], [0.0], [0.0]
        for page in job.pages:
            self._visual.append(self._visual[-1] + page.visual_tokens)
            self._unknown.append(self._unknown[-1] + (0 if page.is_encoded else page.visual_tokens))
            self._load.append(self._load[-1] + page.load_seconds)

    def work(self, keep_ratio: float, strategy: WindowStrategy, count: int) -> Work:
        """Ranking the first `count` pages."""
        return Work(
            keep_ratio=keep_ratio,
            window_strategy=strategy,
            ranked_pages=count,
            windows=len(self._window_sizes(strategy, count)) if count else 0,
            load_seconds=self._load[count],
            device_seconds=self._device_seconds(keep_ratio, strategy, count) if count else 0.0,
        )

    def has_smaller_tournament(self, count: int) -> bool:
        """Whether a tournament takes fewer windows than sliding ones."""
        return len(self._window_sizes("tournament", count)) < len(self._window_sizes("sliding", count))

    def _device_seconds(self, keep_ratio: float, strategy: WindowStrategy, count: int) -> float:
        sizes = self._window_sizes(strategy, count)
        times_encoded = 1.0 if self._job.keeps_features else sum(sizes) / count
        visual = times_encoded * self._unknown[count]
        language = keep_ratio * sum(sizes) * self._visual[count] / count + len(sizes) * self._job.text_tokens
        return (
            len(sizes) * self._rates.batch
            + visual * _rate(self._rates.visual_token, visual / len(sizes))
            + language * _rate(self._rates.language_token, language / len(sizes))
        )

    def _window_sizes(self, strategy: WindowStrategy, count: int) -> list[int]:
        sizes = self._sizes.get((strategy, count))
        if sizes is None:
            job = self._job
            sizes = window_sizes(strategy, count, window_size=job.window_size, stride=job.stride)
            self._sizes[strategy, count] = sizes
        return sizes
