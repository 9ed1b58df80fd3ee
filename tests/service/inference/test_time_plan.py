"""The choice of work: the first of the list that fits, by rates that a test sets."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import WindowStrategy, choose_windows
from service.inference.time_plan import (
    PageCost,
    RankingJob,
    Rates,
    Work,
    choose_keep_ratio,
    choose_work,
    full_work,
    size_class,
    window_sizes,
)

STRATEGIES: tuple[WindowStrategy, ...] = ("sliding", "tournament")


def rates(*, visual: float = 0.0, language: float = 0.0, batch: float = 0.0) -> Rates:
    return Rates(visual_token={10: visual}, language_token={10: language}, batch=batch)


def job(
    pages: int,
    *,
    tokens: float = 100,
    is_encoded: bool = True,
    load_seconds: float = 0.0,
    keep_ratio: float = 0.5,
    min_keep_ratio: float = 0.25,
    window_strategy: WindowStrategy = "sliding",
    keeps_features: bool = True,
) -> RankingJob:
    page = PageCost(visual_tokens=tokens, is_encoded=is_encoded, load_seconds=load_seconds)
    return RankingJob(
        pages=[page] * pages,
        keep_ratio=keep_ratio,
        min_keep_ratio=min_keep_ratio,
        window_size=20,
        stride=10,
        window_strategy=window_strategy,
        text_tokens=0.0,
        keeps_features=keeps_features,
    )


def nobody(work: Work) -> float:
    return 0.0


def choose(wanted: RankingJob, measured: Rates, seconds: float) -> Work:
    return choose_work(wanted, measured, seconds, wait=nobody)


JOBS = st.builds(
    job,
    st.integers(1, 70),
    tokens=st.floats(1, 1000),
    is_encoded=st.booleans(),
    load_seconds=st.floats(0, 1),
    keep_ratio=st.floats(0.3, 1),
    min_keep_ratio=st.floats(0.01, 0.3),
    window_strategy=st.sampled_from(STRATEGIES),
    keeps_features=st.booleans(),
)
RATES = st.builds(rates, visual=st.floats(0, 0.01), language=st.floats(0, 0.01), batch=st.floats(0, 1))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("window_size", "stride"), [(20, 10), (20, 20), (7, 3), (2, 1), (1, 1)])
def test_the_windows_are_counted_as_the_plans_make_them(
    strategy: WindowStrategy, window_size: int, stride: int
) -> None:
    for pages in range(1, 65):
        plan = choose_windows(strategy, pages, window_size=window_size, stride=stride)
        made: list[int] = []
        while turn := plan.turn:
            made += map(len, turn)
            plan.submit([range(len(window)) for window in turn])
        counted = window_sizes(strategy, pages, window_size=window_size, stride=stride)
        assert (len(counted), sum(counted)) == (len(made), sum(made)), pages


def test_each_thing_is_given_up_in_its_turn_as_the_time_gets_shorter() -> None:
    """60 pages of 100 tokens: 5 sliding windows of 20 pages, or 3 groups and a final of 18; a second for 100 tokens."""
    wanted, measured = job(60), rates(language=0.01)
    full = choose(wanted, measured, 50.0)
    assert (full.keep_ratio, full.window_strategy, full.ranked_pages) == (0.5, "sliding", 60)
    assert full.seconds == pytest.approx(50.0) and full.windows == 5
    lower = choose(wanted, measured, 40.0)
    assert (lower.keep_ratio, lower.window_strategy, lower.ranked_pages) == (0.4, "sliding", 60)
    tournament = choose(wanted, replace(measured, batch=100.0), 450.0)
    assert (tournament.keep_ratio, tournament.window_strategy, tournament.ranked_pages) == (0.5, "tournament", 60)
    both = choose(wanted, measured, 24.0)
    assert (both.window_strategy, both.ranked_pages) == ("tournament", 60) and 0.25 < both.keep_ratio < 0.5
    fewer = choose(wanted, measured, 6.0)
    assert 20 <= fewer.ranked_pages < 60 and 0.25 <= fewer.keep_ratio < 0.5
    assert choose(wanted, measured, 0.4).ranked_pages == 0


def test_the_highest_keep_ratio_that_fits_is_taken() -> None:
    assert choose(job(20), rates(language=0.01), 6.21).keep_ratio == 0.31
    assert choose(job(20), rates(language=0.01), 5.0).keep_ratio == 0.25


def test_pages_that_are_encoded_and_loaded_cost_neither() -> None:
    measured = rates(visual=0.01)
    assert full_work(job(10), measured).seconds == 0
    assert full_work(job(10, is_encoded=False), measured).seconds == pytest.approx(10.0)
    assert full_work(job(10, load_seconds=2.0), measured).seconds == pytest.approx(20.0)


def test_a_page_in_two_windows_is_encoded_twice_only_where_features_are_not_kept() -> None:
    measured = rates(visual=0.01)
    assert full_work(job(30, is_encoded=False), measured).seconds == pytest.approx(30.0)
    assert full_work(job(30, is_encoded=False, keeps_features=False), measured).seconds == pytest.approx(40.0)


def test_a_rate_is_that_of_the_nearest_size() -> None:
    measured = Rates(language_token={size_class(100): 1.0, size_class(4000): 3.0})
    assert full_work(job(2), measured).seconds == pytest.approx(100.0)
    assert full_work(job(20, tokens=300), measured).seconds == pytest.approx(9000.0)


def test_waiting_for_others_leaves_less_time() -> None:
    measured = rates(language=0.01)
    assert choose_work(job(20), measured, 10.0, wait=lambda work: 4.0).keep_ratio == 0.3
    assert choose_work(job(20), measured, 10.0, wait=lambda work: 11.0).ranked_pages == 0


def test_a_ranking_that_has_begun_changes_its_keep_ratio_alone() -> None:
    measured = rates(language=0.01)
    assert choose_keep_ratio(job(40), measured, 20.0, wait=nobody).keep_ratio == 0.33
    least = choose_keep_ratio(job(40), measured, 0.0, wait=nobody)
    assert (least.keep_ratio, least.ranked_pages) == (0.25, 40)


@given(wanted=JOBS, measured=RATES, seconds=st.floats(0, 200))
def test_the_choice_fits_or_is_the_given_order(wanted: RankingJob, measured: Rates, seconds: float) -> None:
    choice = choose(wanted, measured, seconds)
    assert choice.seconds <= seconds or choice.ranked_pages == 0
    assert wanted.min_keep_ratio <= choice.keep_ratio <= wanted.keep_ratio
    assert choice.ranked_pages <= len(wanted.pages) and choice.ranked_pages != (1 if len(wanted.pages) > 1 else -1)


@given(wanted=JOBS, measured=RATES, seconds=st.floats(0, 200), more=st.floats(0, 50))
def test_more_time_never_means_a_later_choice_of_the_list(
    wanted: RankingJob, measured: Rates, seconds: float, more: float
) -> None:
    def place(choice: Work) -> tuple[int, bool, float]:
        """Larger for earlier choices."""
        return choice.ranked_pages, choice.window_strategy == wanted.window_strategy, choice.keep_ratio

    short, long = choose(wanted, measured, seconds), choose(wanted, measured, seconds + more)
    if short.ranked_pages and long.ranked_pages == len(wanted.pages):
        assert place(short) <= place(long)
    assert short.ranked_pages <= long.ranked_pages
