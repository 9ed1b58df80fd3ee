"""The gate before the timing: arms that compute something else do not pass."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from benchmarks.stage_latency.arms import Arm, make_arms
from benchmarks.stage_latency.gate import GateError, check_exactness, check_rounding
from benchmarks.stage_latency.own_path import Answer, Work
from benchmarks.workloads import model_shape, on_grid, random_network, random_pages, with_fewer_layers
from model import Observe, RerankerConfig
from model.device import choose_compute


def make_small_arms(dtype: str) -> dict[str, Arm]:
    """Those that compile nothing, over the same weights in every dtype."""
    model_config = with_fewer_layers(model_shape("demo"), 3)
    network = random_network(model_config, choose_compute("cpu", "float32")).to(getattr(torch, dtype))
    arms = make_arms(network, model_config, RerankerConfig(device="cpu", dtype=dtype))
    return {name: arms[name] for name in ("R0", "R1", "A0", "A1")}


@pytest.fixture(scope="module")
def arms() -> dict[str, Arm]:
    return make_small_arms("float32")


@pytest.fixture(scope="module")
def works() -> list[Work]:
    pages = [on_grid(page, model_shape("demo").image) for page in random_pages(2, longest_edge=320)]
    return [Work(query="revenue", pages=pages, keep_ratio=ratio) for ratio in (1.0, 0.5)]


def test_arms_that_agree_pass(arms: dict[str, Arm], works: list[Work]) -> None:
    assert list(check_exactness(arms, works)) == ["R1", "A0", "A1"]


def with_less_kept(arm: Arm) -> Callable[[Work, Observe], Answer]:
    return lambda work, observe: arm.score(replace(work, keep_ratio=0.9 * work.keep_ratio), observe)


def with_pages_swapped(arm: Arm) -> Callable[[Work, Observe], Answer]:
    return lambda work, observe: arm.score(replace(work, pages=work.pages[::-1]), observe)


def with_another_query(arm: Arm) -> Callable[[Work, Observe], Answer]:
    return lambda work, observe: arm.score(replace(work, query="costs"), observe)


def with_other_tokens_named(arm: Arm) -> Callable[[Work, Observe], Answer]:
    def score(work: Work, observe: Observe) -> Answer:
        answer = arm.score(work, observe)
        return replace(answer, kept=answer.kept + 1)

    return score


@pytest.mark.parametrize("break_arm", [with_less_kept, with_pages_swapped, with_another_query, with_other_tokens_named])
def test_a_broken_arm_is_rejected_by_name(
    arms: dict[str, Arm], works: list[Work], break_arm: Callable[[Arm], Callable[[Work, Observe], Answer]]
) -> None:
    broken = {"R0": arms["R0"], "A0": arms["A0"], "A1": replace(arms["A1"], score=break_arm(arms["A1"]))}
    with pytest.raises(GateError, match=r"A1 by") as caught:
        check_exactness(broken, works)
    assert "A0" not in str(caught.value)


def test_an_arm_that_promises_no_exactness_is_reported_and_passes(arms: dict[str, Arm], works: list[Work]) -> None:
    rounded = {"R0": arms["R0"], "A6": replace(arms["A1"], score=with_another_query(arms["A1"]), is_exact=False)}
    assert check_exactness(rounded, works)["A6"]["largest"] > 1e-4


def test_in_half_precision_an_arm_may_be_as_far_off_as_the_reference_and_not_much_further(works: list[Work]) -> None:
    exact, half = make_small_arms("float32"), make_small_arms("bfloat16")
    arms = {
        "R0": half["R0"],
        "A1": half["A1"],
        "broken": replace(half["A1"], score=with_pages_swapped(half["A1"])),
    }
    with pytest.raises(GateError, match=r"broken by") as caught:
        check_rounding(exact["R0"], arms, works[0])
    assert "A1" not in str(caught.value)
