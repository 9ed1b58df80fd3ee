from dataclasses import replace

import pytest
import torch
from torch import nn

from model.training.errors import RunFileError
from model.training.optimiser import learning_rate_at, make_optimiser
from model.training.run_file import OptimiserSection

SECTION = OptimiserSection(
    name="adamw", schedule="cosine", learning_rate=1.0, warmup_steps=4, epochs=1, batch_size=1, accumulate_steps=1,
    weight_decay=0.0, clip_norm=0.0,
)  # fmt: skip
CPU = torch.device("cpu")


def test_the_learning_rate_rises_evenly_and_falls_along_half_a_cosine() -> None:
    rates = [learning_rate_at(step, SECTION, step_count=8) for step in range(1, 9)]
    # After the warm-up cos goes through 0, 45, 90 and 135 degrees: (1 + 0.707107) / 2 = 0.853553, …
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 0.853553, 0.5, 0.146447], abs=1e-6)


def test_without_warm_up_the_first_step_has_the_highest_rate() -> None:
    assert learning_rate_at(1, replace(SECTION, warmup_steps=0), step_count=2) == 1.0


def test_a_run_shorter_than_its_warm_up_does_not_reach_the_top() -> None:
    assert learning_rate_at(2, SECTION, step_count=2) == 0.5


def test_frozen_parameters_are_left_out() -> None:
    frozen, trained = nn.Parameter(torch.zeros(1), requires_grad=False), nn.Parameter(torch.zeros(1))
    [group] = make_optimiser([frozen, trained], SECTION, device=CPU).param_groups
    assert group["params"] == [trained] and group["weight_decay"] == 0


def test_the_8_bit_optimiser_needs_a_card() -> None:
    with pytest.raises(RunFileError, match=r"adamw_8bit, which needs CUDA; the device is cpu\. Choose adamw"):
        make_optimiser([nn.Parameter(torch.zeros(1))], replace(SECTION, name="adamw_8bit"), device=CPU)
