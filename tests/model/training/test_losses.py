"""The losses against numbers worked out by hand, and their gradients where logits are extreme."""

import math
from collections.abc import Callable

import pytest
import torch

from model.training.losses import next_token_loss, rank_net_loss, soft_ranking_loss

EXACT = 1e-6  # float32


def test_rank_net_weighs_each_pair_by_its_ranks() -> None:
    # Order 2, 0, 1; the pairs' differences are 3 - 1 = 2, 3 - 0 = 3 and 1 - 0 = 1; their ranks add up to 3, 4 and 5.
    # ln(1 + e^-2) = 0.126928, ln(1 + e^-3) = 0.048587, ln(1 + e^-1) = 0.313262:
    # (0.126928 / 3 + 0.048587 / 4 + 0.313262 / 5) / 3 = (0.042309 + 0.012147 + 0.062652) / 3 = 0.039036
    loss = rank_net_loss(torch.tensor([1.0, 0.0, 3.0]), (2, 0, 1))
    assert loss.item() == pytest.approx(0.039036, abs=EXACT)


def test_rank_net_of_a_swapped_pair_is_larger_by_their_difference() -> None:
    # ln(1 + e^2) = 2.126928, ln(1 + e^-2) = 0.126928; one pair of ranks 1 and 2
    assert rank_net_loss(torch.tensor([0.0, 2.0]), (0, 1)).item() == pytest.approx(2.126928 / 3, abs=EXACT)
    assert rank_net_loss(torch.tensor([0.0, 2.0]), (1, 0)).item() == pytest.approx(0.126928 / 3, abs=EXACT)


def test_a_single_page_has_nothing_to_be_ranked_against() -> None:
    logits = torch.tensor([5.0], requires_grad=True)
    loss = rank_net_loss(logits, (0,))
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and logits.grad.tolist() == [0]
    assert soft_ranking_loss(torch.tensor([5.0]), (0,), {0}).item() == 0


def test_soft_ranking_halves_the_weight_from_place_to_place() -> None:
    # Weights 4/7, 2/7, 1/7 for the pages 1, 2, 0. softmax(0, ln 2, 0) = 1/4, 1/2, 1/4:
    # 4/7 ln 2 + 2/7 ln 4 + 1/7 ln 4 = 0.396084 + 0.396084 + 0.198042 = 0.990210
    loss = soft_ranking_loss(torch.tensor([0.0, math.log(2), 0.0]), (1, 2, 0), frozenset())
    assert loss.item() == pytest.approx(0.990210, abs=EXACT)


def test_soft_ranking_moves_relevant_pages_to_the_front_in_the_teacher_s_order() -> None:
    # The teacher says 1, 3, 0, 2; with 0 and 3 relevant the order is 3, 0, 1, 2, of the weights 8, 4, 2 and 1 fifteenths.
    # ln softmax(3, 2, 1, 0) = -0.440190, -1.440190, -2.440190, -3.440190:
    # (8 * 3.440190 + 4 * 0.440190 + 2 * 1.440190 + 1 * 2.440190) / 15 = 34.602850 / 15 = 2.306857
    loss = soft_ranking_loss(torch.tensor([3.0, 2.0, 1.0, 0.0]), (1, 3, 0, 2), frozenset({0, 3}))
    assert loss.item() == pytest.approx(2.306857, abs=EXACT)


def test_next_token_loss_is_the_mean_over_the_tokens() -> None:
    # softmax(0, 0) gives 1/2, softmax(ln 3, 0) gives 1/4 to the second: (ln 2 + ln 4) / 2 = 1.039721
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
    assert next_token_loss(logits, torch.tensor([0, 1])).item() == pytest.approx(1.039721, abs=EXACT)


@pytest.mark.parametrize(
    "loss",
    [
        lambda logits: rank_net_loss(logits, (3, 2, 1, 0)),
        lambda logits: soft_ranking_loss(logits, (3, 2, 1, 0), {3}),
        lambda logits: next_token_loss(logits[None], torch.tensor([3])),
    ],
    ids=["rank_net", "soft_ranking", "next_token"],
)
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_gradients_are_finite_at_extremes(loss: Callable[[torch.Tensor], torch.Tensor], size: float) -> None:
    logits = torch.tensor([size, -size, size / 2, -size / 2], requires_grad=True)
    value = loss(logits)
    value.backward()
    assert math.isfinite(value.item()) and value.item() > 0
    assert logits.grad is not None and logits.grad.isfinite().all() and logits.grad.any()
