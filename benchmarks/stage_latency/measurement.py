"""Times every arm on the same requests, in turns, so that whatever drifts meets all of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.card import inspect
from benchmarks.distribution import describe, is_steady
from benchmarks.stage_latency.arms import Arm
from benchmarks.stage_latency.own_path import Work
from model import StageClock, no_observation
from model.device import Compute

HOST_STAGES = ("prepare",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to measure."""

    iterations: int
    warm_up_calls: int  # at most; it ends when times have settled
    warm_up_seconds: float  # at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One call. Milliseconds."""

    wall: float
    cpu: float  # of all threads
    stages: dict[str, float]

    @property
    def device(self) -> float:
        """All stages but those of the host: on a card by its own clock."""
        return sum(value for stage, value in self.stages.items() if stage not in HOST_STAGES)


@dataclass(slots=True, kw_only=True)
class Series:
    """An arm on one request."""

    first_call: float  # milliseconds: compiling, planning, filling caches
    warm_up: list[float]
    samples: list[Sample] = field(default_factory=list)


def measure(
    arms: Mapping[str, Arm], works: Sequence[Work], effort: Effort, compute: Compute, advance: Callable[[], object]
) -> dict[tuple[str, float], Series]:
    """By arm and keep ratio. `advance` is called after each of the `step_count` steps."""
    series = {}
    for work in works:
        for name, arm in arms.items():
            series[name, work.keep_ratio] = _warm_up(arm, work, effort, compute)
            advance()
    for _ in range(effort.iterations):
        for work in works:
            for name, arm in arms.items():
                series[name, work.keep_ratio].samples.append(_sample(arm, work, compute))
                advance()
    return series


def step_count(arms: Mapping[str, Arm], works: Sequence[Work], effort: Effort) -> int:
    return len(arms) * len(works) * (1 + effort.iterations)


def _warm_up(arm: Arm, work: Work, effort: Effort, compute: Compute) -> Series:
    started = time.perf_counter()
    first_call = _sample(arm, work, compute).wall
    walls: list[float] = []
    while len(walls) < effort.warm_up_calls and time.perf_counter() - started < effort.warm_up_seconds:
        walls.append(_sample(arm, work, compute).wall)
        if is_steady(walls):
            break
    return Series(first_call=first_call, warm_up=walls)


def _sample(arm: Arm, work: Work, compute: Compute) -> Sample:
    clock = StageClock(compute.device)
    started, cpu_started = time.perf_counter(), time.process_time()
    arm.score(work, clock.observe)  # ends with the logits on the host
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu_started
    stages = {stage: seconds * 1000 for stage, seconds in clock.seconds().items()}
    return Sample(wall=wall * 1000, cpu=cpu * 1000, stages=stages)


def summarise(series: Series, *, needed_flop: float, matrix_tflops: float) -> dict[str, Any]:
    """`needed_flop`: what the arm's answer takes by the model's definition; times over its floor say how far off it is."""
    wall = describe([sample.wall for sample in series.samples])
    device = describe([sample.device for sample in series.samples])
    floor_ms = needed_flop / matrix_tflops / 1e9
    tflops = needed_flop / device["median"] / 1e9
    return {
        "wall_ms": wall,
        "device_ms": device,
        "cpu_ms": describe([sample.cpu for sample in series.samples]),
        "stages_ms": _stages(series.samples),
        "needed_tflop": round(needed_flop / 1e12, 4),
        "floor_ms": round(floor_ms, 3),
        "times_floor": round(device["median"] / floor_ms, 3),
        "tflops": round(tflops, 4),
        "of_matrix_rate": round(tflops / matrix_tflops, 4),
        "first_call_ms": round(series.first_call, 1),
        "warm_up": {"calls": len(series.warm_up), "is_steady": is_steady(series.warm_up)},
    }


def _stages(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    names = dict.fromkeys(stage for sample in samples for stage in sample.stages)
    return {name: describe([sample.stages[name] for sample in samples]) for name in names}


def inspect_arm(arm: Arm, work: Work, compute: Compute) -> dict[str, int | None]:
    """What can be counted rather than timed, in calls of their own."""
    return inspect(lambda: arm.score(work, no_observation), compute)
