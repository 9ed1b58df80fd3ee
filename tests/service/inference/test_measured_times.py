"""The times that are learned from finished work."""

import pytest

from model import PageScores
from service.inference.measured_times import MeasuredTimes
from service.raster.page import Kind


def scores(*, pages: int = 2, visual: int = 100, kept: int = 50, prompt: int = 80, cached: int = 0) -> PageScores:
    return PageScores(
        logits=(0.0,) * pages,
        order=tuple(range(pages)),
        visual_tokens=visual,
        kept_tokens=kept,
        prompt_tokens=prompt,
        cached_pages=cached,
    )


def rate(by_size: object) -> float:
    assert isinstance(by_size, dict)
    [value] = by_size.values()
    return float(value)


def test_a_batch_teaches_its_rates_by_its_stages() -> None:
    times = MeasuredTimes(lanes=1)
    times.record_batch(
        [scores()], {"upload": 1.0, "vision": 9.0, "pack": 1.0, "language": 7.0, "compress": 1.0}, seconds=20.0
    )
    learned = times.rates()
    assert rate(learned.visual_token) == pytest.approx(0.1)
    assert rate(learned.language_token) == pytest.approx(0.1)
    assert learned.batch == pytest.approx(2.0)
    assert times.page_tokens == 50 and times.text_tokens(1) == 30


def test_cached_pages_are_not_counted_as_encoded() -> None:
    times = MeasuredTimes(lanes=1)
    times.record_batch([scores(cached=1)], {"vision": 10.0}, seconds=None)
    assert rate(times.rates().visual_token) == pytest.approx(0.2)
    times.record_batch([scores(cached=2)], {"vision": 0.0}, seconds=None)
    assert rate(times.rates().visual_token) == pytest.approx(0.2)


def test_the_first_batch_replaces_the_warm_up_and_one_slow_batch_changes_little() -> None:
    times = MeasuredTimes(lanes=1)
    times.record_batch([scores(visual=4000)], {"vision": 4000.0}, seconds=None, is_provisional=True)
    assert rate(times.rates().visual_token) == 1.0
    for seconds in (10.0, 10.0, 1000.0, 11.0, 10.0):
        times.record_batch([scores()], {"vision": seconds}, seconds=None)
    assert rate(times.rates().visual_token) == pytest.approx(0.1)


def test_rates_of_large_and_small_batches_are_learned_apart() -> None:
    times = MeasuredTimes(lanes=1)
    times.record_batch([scores(prompt=100)], {"language": 100.0}, seconds=None)
    times.record_batch([scores(prompt=4000)], {"language": 8000.0}, seconds=None)
    assert sorted(times.rates().language_token.values()) == [1.0, 2.0]


def test_pages_are_drawn_side_by_side_on_all_lanes() -> None:
    times = MeasuredTimes(lanes=4)
    times.record_drawing({Kind.PDF: 8}, 4.0)
    assert times.drawing_seconds(Kind.PDF, pages_of_request=1) == pytest.approx(2.0)
    assert times.drawing_seconds(Kind.PDF, pages_of_request=8) == pytest.approx(0.5)
    assert times.drawing_seconds(Kind.IMAGE, pages_of_request=8) == 0


def test_a_mixed_request_is_divided_as_its_kinds_were_before() -> None:
    times = MeasuredTimes(lanes=1)
    times.record_drawing({Kind.PDF: 1}, 3.0)
    times.record_drawing({Kind.IMAGE: 1}, 1.0)
    for _ in range(20):
        times.record_drawing({Kind.PDF: 1, Kind.IMAGE: 1}, 8.0)
    assert times.drawing_seconds(Kind.PDF, pages_of_request=1) == pytest.approx(6.0)
    assert times.drawing_seconds(Kind.IMAGE, pages_of_request=1) == pytest.approx(2.0)


def test_documents_are_opened_side_by_side() -> None:
    times = MeasuredTimes(lanes=2)
    times.record_opening(4, 2.0)
    assert (times.opening_seconds(1), times.opening_seconds(2), times.opening_seconds(3)) == (1.0, 1.0, 2.0)


def test_the_ratio_follows_plans_that_took_longer_within_bounds() -> None:
    times = MeasuredTimes(lanes=1)
    assert times.ratio("rank") == pytest.approx(1.1)
    for _ in range(100):
        times.record_ratio("rank", expected=1.0, actual=1.5)
    assert times.ratio("rank") == 1.5 and times.ratio("load") == pytest.approx(1.1)
    for _ in range(100):
        times.record_ratio("rank", expected=1.0, actual=50.0)
    assert times.ratio("rank") == 2.0
    for _ in range(100):
        times.record_ratio("rank", expected=1.0, actual=0.1)
    assert times.ratio("rank") == 1.0


def test_the_last_steps_are_given_as_much_time_as_almost_all_answers_take() -> None:
    times = MeasuredTimes(lanes=1)
    for _ in range(500):
        times.record_leaving(0.004)
    assert times.leaving_seconds == pytest.approx(0.004)
    for _ in range(5):
        times.record_leaving(0.3)
    assert times.leaving_seconds == pytest.approx(0.3)


def test_work_that_was_left_out_often_enough_is_expected_to_be_faster() -> None:
    times = MeasuredTimes(lanes=1)
    times.record_batch([scores()], {"vision": 10.0, "language": 8.0}, seconds=20.0)
    times.record_opening(1, 1.0)
    before = times.rates()
    for _ in range(20):
        times.relax()
    after = times.rates()
    assert rate(after.visual_token) < rate(before.visual_token) / 5
    assert rate(after.language_token) < rate(before.language_token) / 5
    assert after.batch < before.batch / 5 and times.opening_seconds(1) < 0.2
