import pytest

from model.ranking import order_by_score, scores_by_rank, softmax


def test_best_score_comes_first_and_ties_keep_the_input_order() -> None:
    assert order_by_score([0.5, 2.0, 0.5, 2.0]) == (1, 3, 0, 2)


def test_softmax_of_one_page_is_one() -> None:
    assert softmax([-812.0]) == (1.0,)


def test_softmax_is_the_share_of_the_exponentials() -> None:
    assert softmax([0.0, 0.6931471805599453]) == pytest.approx((1 / 3, 2 / 3))


def test_scores_over_windows_fall_evenly_with_rank() -> None:
    assert scores_by_rank([2, 0, 1, 3]) == (0.75, 0.5, 1.0, 0.25)
