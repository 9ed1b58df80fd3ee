"""Which examples a step learns from: a function of the seed and the step alone, so that a resumed run needs no position.

Knows neither prompts nor devices.
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
"""In the place of an epoch: the draw of the held-out examples is another one than any epoch's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """An example's turn in an epoch."""

    epoch: int
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """The order of all examples over all epochs, steps, passes and processes.

    An epoch is a permutation; its last step is filled up from the permutation's front.
    """

    example_count: int
    seed: int
    epochs: int
    batch_size: int  # examples a process and pass
    accumulate_steps: int  # passes a step
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
        """What `process` reads in step `step`, both from 0: a batch for every pass."""
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
    """Examples to learn from and `count` others, drawn by the seed. Raises: DataError where none would be left."""
    if count >= len(examples):
        raise DataError(
            f"data.held_out is {count}, and there are {len(examples)} examples; at least one must be left to learn from."
        )
    held = set(_epoch_order(len(examples), seed, _HELD_OUT_STREAM)[:count])
    learnt = [example for index, example in enumerate(examples) if index not in held]
    return learnt, [examples[index] for index in sorted(held)]


def shuffle_candidates(example: RankingExample, visit: Visit, *, seed: int) -> RankingExample:
    """The candidates in an order of their own for every seed, epoch and example."""
    random = np.random.default_rng([seed, visit.epoch, visit.index])
    return take_candidates(example, random.permutation(len(example.pages)).tolist())


def computed_ahead(
    compute: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int
) -> Generator[Result, None, None]:
    """`compute` of every item, in order, by threads that are at most `ahead` items ahead of what was taken."""
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
