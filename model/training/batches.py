"""Chooses the examples of each training step, from the seed and the number of the step alone.

A resumed run therefore needs no saved position in the data.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np

from model.training.candidates import take_candidates
from model.training.errors import DataError
from model.training.examples import RankingExample

Item = TypeVar("Item")
Result = TypeVar("Result")

_HELD_OUT_STREAM = 2**32 - 1
"""Used in place of an epoch number, so that held-out examples are drawn from a random stream of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One use of an example: the epoch and the index of the example."""

    epoch: int
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """The order of the examples over all epochs, steps, passes and processes.

    An epoch is a random permutation. Its last step is filled up from the front of the permutation.
    """

    example_count: int
    seed: int
    epochs: int
    batch_size: int  # examples per process and pass
    accumulate_steps: int  # passes per step
    process_count: int

    @property
    def examples_a_step(self) -> int:
        return self.batch_size * self.accumulate_steps * self.process_count

    @property
    def steps_an_epoch(self) -> int:
        return -(-self.example_count // self.examples_a_step)

    @property
    def step_count(self) -> int:
        return self.epochs * self.steps_an_epoch

    def passes(self, step: int, process: int) -> list[list[Visit]]:
        """The examples of `process` in `step` (both count from 0), one batch for each pass."""
        epoch, step_in_epoch = divmod(step, self.steps_an_epoch)
        order = _epoch_order(self.example_count, self.seed, epoch)
        start = step_in_epoch * self.examples_a_step + process * self.batch_size
        stride = self.batch_size * self.process_count
        return [
            [
                Visit(epoch=epoch, index=order[place % self.example_count])
                for place in range(first, first + self.batch_size)
            ]
            for first in range(start, start + self.accumulate_steps * stride, stride)
        ]


@lru_cache(maxsize=2)
def _epoch_order(count: int, seed: int, epoch: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng([seed, epoch]).permutation(count).tolist())


def hold_out(
    examples: Sequence[RankingExample], count: int, *, seed: int
) -> tuple[list[RankingExample], list[RankingExample]]:
    """Split into examples to learn from and `count` held-out ones, by the seed.

    Raises: DataError if no example would be left to learn from.
    """
    if count >= len(examples):
        raise DataError(
            f"data.held_out is {count}, and there are {len(examples)} examples; at least one must be left to learn from."
        )
    held = set(_epoch_order(len(examples), seed, _HELD_OUT_STREAM)[:count])
    learnt = [example for index, example in enumerate(examples) if index not in held]
    return learnt, [examples[index] for index in sorted(held)]


def shuffle_candidates(example: RankingExample, visit: Visit, *, seed: int) -> RankingExample:
    """The example with its candidates shuffled, by the seed, the epoch and the index of the example."""
    random = np.random.default_rng([seed, visit.epoch, visit.index])
    return take_candidates(example, random.permutation(len(example.pages)).tolist())


def computed_ahead(
    compute: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int
) -> Generator[Result, None, None]:
    """Yield `compute(item)` for every item, in order. Threads compute at most `ahead` results in advance."""
    with ThreadPoolExecutor(threads, thread_name_prefix="prepare") as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(compute, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
