"""Figures of repeated measurements, against numbers worked out by hand."""

import math

import pytest

from benchmarks.distribution import describe, is_steady, median_interval, percentile


def test_percentiles_lie_between_the_two_nearest_values() -> None:
    assert percentile([40, 10, 30, 20], 50) == 25
    assert percentile([40, 10, 30, 20], 95) == pytest.approx(38.5)  # 0.85 of the way from 30 to 40
    assert math.isnan(percentile([], 50))


def test_description_of_one_to_hundred() -> None:
    figures = describe([float(value) for value in range(1, 101)])
    assert figures["median"] == 50.5
    assert figures["p90"] == pytest.approx(90.1)
    assert figures["p95"] == pytest.approx(95.05)
    assert figures["min"] == 1


def test_interval_of_the_median_holds_the_median_and_is_narrow_where_values_agree() -> None:
    low, high = median_interval([10.0, 10.1, 9.9, 10.0, 10.2, 9.8, 10.0, 10.1])
    assert 9.8 < low <= 10.0 <= high < 10.2
    assert median_interval([3.0]) == (3.0, 3.0)


def test_interval_of_the_median_ignores_an_outlier_that_moves_the_mean() -> None:
    _, high = median_interval([10.0] * 20 + [1000.0])
    assert high == 10.0


@pytest.mark.parametrize(
    ("values", "steady"),
    [
        ([100, 50, 10.0, 10.1, 10.2, 10.0, 10.3], True),  # the last five within 3 %
        ([10.0, 10.1, 10.2, 10.0, 10.4], False),
        ([10.0, 10.0, 10.0, 10.0], False),  # too few
    ],
)
def test_a_series_is_steady_once_five_values_in_a_row_agree(values: list[float], steady: bool) -> None:
    assert is_steady(values) is steady
