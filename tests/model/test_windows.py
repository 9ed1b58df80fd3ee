import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import WindowError, sliding_windows


def play(relevance: list[float], *, window_size: int, stride: int) -> tuple[list[tuple[int, ...]], tuple[int, ...]]:
    """All windows and the final order, each window ordered by `relevance`."""
    windows = sliding_windows(len(relevance), window_size=window_size, stride=stride)
    seen: list[tuple[int, ...]] = []
    try:
        window = next(windows)
        while True:
            seen.append(window)
            window = windows.send(sorted(range(len(window)), key=lambda i, w=window: -relevance[w[i]]))
    except StopIteration as stop:
        return seen, stop.value


def test_windows_go_from_the_back_to_the_front() -> None:
    seen, order = play([0, 1, 2, 3, 4, 5], window_size=4, stride=2)
    assert seen == [(2, 3, 4, 5), (0, 1, 5, 4)]
    assert order == (5, 4, 1, 0, 3, 2)


def test_pages_that_fit_are_one_window() -> None:
    seen, order = play([0.0, 2.0, 1.0], window_size=20, stride=10)
    assert seen == [(0, 1, 2)]
    assert order == (1, 2, 0)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=60),
    st.integers(1, 20).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size))),
)
def test_every_page_is_named_once_and_the_count_is_known(relevance: list[float], sizes: tuple[int, int]) -> None:
    window_size, stride = sizes
    seen, order = play(relevance, window_size=window_size, stride=stride)
    assert sorted(order) == list(range(len(relevance)))
    assert len(seen) == 1 + max(0, -(-(len(relevance) - window_size) // stride))
    assert all(len(window) <= window_size for window in seen)


@given(st.permutations(range(37)))
def test_the_best_page_comes_first_wherever_it_lay(relevance: list[int]) -> None:
    _, order = play([float(value) for value in relevance], window_size=10, stride=5)
    assert relevance[order[0]] == 36


@pytest.mark.parametrize(("window_size", "stride"), [(0, 1), (21, 10), (5, 6), (5, 0)])
def test_impossible_windows_are_refused(window_size: int, stride: int) -> None:
    with pytest.raises(WindowError, match=f"window_size is {window_size}"):
        next(sliding_windows(3, window_size=window_size, stride=stride))
