"""Correctness before speed: the arms must give what the published path gives, or there is nothing to time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from benchmarks.stage_latency.arms import REFERENCE, Arm
from benchmarks.stage_latency.own_path import Answer, Work
from model import no_observation

TOLERANCE = 1e-4
"""Of a logit in float32, where only the order of additions differs; measured: below 1e-5."""

MOST_TIMES_AS_FAR = 3.0
"""In half precision an arm may be that many times as far from float32 as the reference in half precision is: a kernel that
computes something else is off by far more."""

_ROUNDING_QUERIES = 8


class GateError(Exception):
    """An arm does not compute what the published path computes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """An arm against the reference, over all works."""

    largest: float  # of a logit
    same_tokens: bool  # every page keeps the same visual tokens
    same_first: bool  # the best page is the same


def check_exactness(arms: Mapping[str, Arm], works: Sequence[Work]) -> dict[str, dict[str, Any]]:
    """In float32: every other arm's difference from the reference, as a record.

    Raises: GateError, which names every exact arm that differs.
    """
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # else the library's convolution rounds to 10 bits
        differences = _compare(arms, works)
    faults = [
        f"{name} by {difference.largest:.1e}{'' if difference.same_tokens else ' and in the tokens it keeps'}"
        for name, difference in differences.items()
        if arms[name].is_exact and not (difference.largest <= TOLERANCE and difference.same_tokens)
    ]
    if faults:
        raise GateError(f"Arms differ from {REFERENCE}, where {TOLERANCE:g} is allowed: {'; '.join(faults)}.")
    return {name: asdict(difference) for name, difference in differences.items()}


def _compare(arms: Mapping[str, Arm], works: Sequence[Work]) -> dict[str, Difference]:
    expected = [_score(arms[REFERENCE], work) for work in works]
    return {
        name: _difference(expected, [_score(arm, work) for work in works])
        for name, arm in arms.items()
        if name != REFERENCE
    }


def _score(arm: Arm, work: Work) -> Answer:
    """The second answer: a warm arm has its pages at hand by then."""
    arm.score(work, no_observation)
    return arm.score(work, no_observation)


def _difference(expected: Sequence[Answer], got: Sequence[Answer]) -> Difference:
    pairs = list(zip(expected, got, strict=True))
    return Difference(
        largest=max(abs(a - b) for one, other in pairs for a, b in zip(one.logits, other.logits, strict=True)),
        same_tokens=all(torch.equal(one.kept.cpu(), other.kept.cpu()) for one, other in pairs),
        same_first=all(_best(one) == _best(other) for one, other in pairs),
    )


def _best(answer: Answer) -> int:
    return answer.logits.index(max(answer.logits))


def check_rounding(exact: Arm, arms: Mapping[str, Arm], work: Work) -> dict[str, float]:
    """In half precision: every arm's distance from `exact`, the reference in float32 (root mean square of the logits).

    Over several queries, because few logits are a matter of luck, and with all tokens kept, because rounded similarities
    choose other ones.  Raises: GateError, which names every exact arm that is too far off.
    """
    queries = [f"{number}. {work.query}" for number in range(_ROUNDING_QUERIES)]
    distances = _distances(exact, arms, [replace(work, query=query, keep_ratio=1.0) for query in queries])
    limit = MOST_TIMES_AS_FAR * distances[REFERENCE]
    faults = [
        f"{name} by {distances[name]:.1e}" for name, arm in arms.items() if arm.is_exact and distances[name] > limit
    ]
    if faults:
        raise GateError(
            f"Arms are further from float32 than {REFERENCE} ({distances[REFERENCE]:.1e}): {'; '.join(faults)}."
        )
    return distances


def _distances(exact: Arm, arms: Mapping[str, Arm], works: Sequence[Work]) -> dict[str, float]:
    expected = [_score(exact, work).logits for work in works]
    return {name: _distance(expected, [_score(arm, work).logits for work in works]) for name, arm in arms.items()}


def _distance(expected: Sequence[tuple[float, ...]], got: Sequence[tuple[float, ...]]) -> float:
    squares = [(a - b) ** 2 for one, other in zip(expected, got, strict=True) for a, b in zip(one, other, strict=True)]
    return math.sqrt(sum(squares) / len(squares))
