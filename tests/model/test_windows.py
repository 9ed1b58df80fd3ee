import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import WindowError, WindowPlan, choose_windows


def best_first(relevance: list[float]) -> list[int]:
    return sorted(range(len(relevance)), key=lambda index: -relevance[index])


def play(plan: WindowPlan, relevance: list[float]) -> tuple[list[list[tuple[int, ...]]], tuple[int, ...]]:
    """All turns and the final order, each window ordered by `relevance`."""
    turns: list[list[tuple[int, ...]]] = []
    while turn := plan.turn:
        turns.append(turn)
        plan.submit([best_first([relevance[page] for page in window]) for window in turn])
    return turns, plan.order


def slide(relevance: list[float], *, window_size: int, stride: int) -> tuple[list[tuple[int, ...]], tuple[int, ...]]:
    turns, order = play(choose_windows("sliding", len(relevance), window_size=window_size, stride=stride), relevance)
    assert all(len(turn) == 1 for turn in turns)
    return [window for [window] in turns], order


def hold_tournament(relevance: list[float], *, window_size: int) -> tuple[list[list[tuple[int, ...]]], tuple[int, ...]]:
    return play(choose_windows("tournament", len(relevance), window_size=window_size, stride=1), relevance)


def test_windows_go_from_the_back_to_the_front() -> None:
    seen, order = slide([0, 1, 2, 3, 4, 5], window_size=4, stride=2)
    assert seen == [(2, 3, 4, 5), (0, 1, 5, 4)]
    assert order == (5, 4, 1, 0, 3, 2)


def test_pages_that_fit_are_one_window() -> None:
    seen, order = slide([0.0, 2.0, 1.0], window_size=20, stride=10)
    assert seen == [(0, 1, 2)]
    assert order == (1, 2, 0)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=60),
    st.integers(1, 20).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size))),
)
def test_every_page_is_named_once_and_the_count_is_known(relevance: list[float], sizes: tuple[int, int]) -> None:
    window_size, stride = sizes
    seen, order = slide(relevance, window_size=window_size, stride=stride)
    assert sorted(order) == list(range(len(relevance)))
    assert len(seen) == 1 + max(0, -(-(len(relevance) - window_size) // stride))
    assert all(len(window) <= window_size for window in seen)


@given(st.permutations(range(37)))
def test_the_best_page_comes_first_wherever_it_lay(relevance: list[int]) -> None:
    _, order = slide([float(value) for value in relevance], window_size=10, stride=5)
    assert relevance[order[0]] == 36


@pytest.mark.parametrize(("window_size", "stride"), [(0, 1), (21, 10), (5, 6), (5, 0)])
def test_impossible_windows_are_refused(window_size: int, stride: int) -> None:
    with pytest.raises(WindowError, match=f"window_size is {window_size}"):
        choose_windows("sliding", 3, window_size=window_size, stride=stride)


@pytest.mark.parametrize("strategy", ["sliding", "tournament"])
def test_an_order_is_not_given_before_the_last_turn(strategy: str) -> None:
    plan = choose_windows(strategy, 6, window_size=4, stride=2)
    while turn := plan.turn:
        with pytest.raises(AssertionError, match="a turn is left"):
            _ = plan.order
        plan.submit([range(len(window)) for window in turn])
    assert sorted(plan.order) == list(range(6)) and plan.turn == []


def test_an_order_that_leaves_out_a_page_is_refused() -> None:
    plan = choose_windows("sliding", 3, window_size=3, stride=1)
    with pytest.raises(AssertionError, match="each of its pages once"):
        plan.submit([(0, 1, 1)])


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(WindowError, match="'bubble'; it must be one of sliding, tournament"):
        choose_windows("bubble", 3, window_size=2, stride=1)


def test_a_tournament_ranks_groups_side_by_side_and_then_the_best_of_each() -> None:
    turns, order = hold_tournament([0, 1, 2, 3, 4, 5, 6, 7], window_size=4)
    assert turns == [[(0, 2, 4, 6), (1, 3, 5, 7)], [(6, 7, 4, 5)]]
    assert order == (7, 6, 5, 4, 2, 3, 0, 1)


def test_a_tournament_of_pages_that_fit_is_one_window() -> None:
    turns, order = hold_tournament([0.0, 2.0, 1.0], window_size=20)
    assert turns == [[(0, 1, 2)]]
    assert order == (1, 2, 0)


@pytest.mark.parametrize(("pages", "windows"), [(20, 1), (21, 3), (40, 3), (50, 4), (100, 6), (400, 21)])
def test_a_tournament_has_a_window_for_each_group_and_one_more(pages: int, windows: int) -> None:
    turns, _ = hold_tournament([float(page) for page in range(pages)], window_size=20)
    assert sum(map(len, turns)) == windows
    assert len(turns) <= 2


@given(st.lists(st.floats(0, 1), min_size=1, max_size=120), st.integers(1, 20))
def test_a_tournament_names_every_page_once_and_the_best_first(relevance: list[float], window_size: int) -> None:
    turns, order = hold_tournament(relevance, window_size=window_size)
    assert sorted(order) == list(range(len(relevance)))
    assert all(len(window) <= window_size for turn in turns for window in turn)
    if window_size > 1:
        assert relevance[order[0]] == max(relevance)


@given(st.permutations(range(100)))
def test_the_first_four_of_a_hundred_come_out_right(relevance: list[int]) -> None:
    _, order = hold_tournament([float(value) for value in relevance], window_size=20)
    assert [relevance[page] for page in order[:4]] == [99, 98, 97, 96]


def play_some(plan: WindowPlan, relevance: list[float], *, turns: int) -> WindowPlan:
    for _ in range(turns):
        plan.submit([best_first([relevance[page] for page in window]) for window in plan.turn])
    return plan


def test_the_order_so_far_has_every_page_once_and_the_open_ones_first() -> None:
    relevance = [float(page) for page in range(25)]
    for strategy in ("sliding", "tournament"):
        plan = choose_windows(strategy, 25, window_size=8, stride=4)
        assert (plan.order_so_far, plan.open_pages) == (tuple(range(25)), 25)
        while plan.turn:
            assert {page for window in plan.turn for page in window} <= set(plan.order_so_far[: plan.open_pages])
            play_some(plan, relevance, turns=1)
            assert sorted(plan.order_so_far) == list(range(25))
        assert plan.order_so_far == plan.order and plan.open_pages == 0


def test_sliding_windows_that_are_left_out_hand_their_best_pages_to_the_last_one() -> None:
    relevance = [float(page) for page in range(20)]
    plan = play_some(choose_windows("sliding", 20, window_size=6, stride=3), relevance, turns=2)
    plan.skip_to_last_turn()
    assert plan.turn == [(0, 1, 2, 19, 18, 17)]
    assert play_some(plan, relevance, turns=1).order[:6] == (19, 18, 17, 2, 1, 0)
    assert sorted(plan.order) == list(range(20)) and plan.order[6:14] == tuple(range(3, 11))


@pytest.mark.parametrize("strategy", ["sliding", "tournament"])
def test_left_out_before_the_first_turn_the_last_one_takes_the_first_pages(strategy: str) -> None:
    plan = choose_windows(strategy, 30, window_size=5, stride=2)
    plan.skip_to_last_turn()
    assert plan.turn == [(0, 1, 2, 3, 4)]
    assert play_some(plan, [float(page) for page in range(30)], turns=1).order == (4, 3, 2, 1, 0, *range(5, 30))


def test_the_finalists_of_a_tournament_that_one_window_has_no_room_for_come_behind_it() -> None:
    relevance = [float(page) for page in range(60)]
    plan = play_some(choose_windows("tournament", 60, window_size=4, stride=2), relevance, turns=1)
    best = plan.order_so_far[:4]
    plan.skip_to_last_turn()
    assert plan.turn == [best]
    assert sorted(play_some(plan, relevance, turns=1).order) == list(range(60))


@pytest.mark.parametrize("strategy", ["sliding", "tournament"])
def test_nothing_is_left_out_where_one_turn_is_left_or_none(strategy: str) -> None:
    plan = choose_windows(strategy, 5, window_size=5, stride=2)
    turn = plan.turn
    plan.skip_to_last_turn()
    assert plan.turn == turn
    play_some(plan, [1.0] * 5, turns=1)
    plan.skip_to_last_turn()
    assert plan.turn == [] and plan.order == tuple(range(5))
