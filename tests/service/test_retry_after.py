import pytest

from service.retry_after import LONGEST_SECONDS, retry_after


@pytest.mark.parametrize(
    ("estimate", "least", "most"),
    [(0, 1, 1), (0.2, 1, 1), (4, 4, 6), (20, 20, 30), (1e9, LONGEST_SECONDS, LONGEST_SECONDS)],
)
def test_seconds_are_the_estimate_or_up_to_half_more_within_bounds(estimate: float, least: int, most: int) -> None:
    assert {retry_after(estimate) for _ in range(200)} <= set(range(least, most + 1))


def test_clients_that_were_refused_together_come_back_apart() -> None:
    assert len({retry_after(10) for _ in range(200)}) > 3
