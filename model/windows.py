"""More pages than one window: which pages to rank next, given the orders of the last windows.

A strategy is a generator: it yields a turn, that is windows (page indices) that can be ranked side by side, and is sent an
order for each (indices into the window, best first); what it returns is the order of all pages. It knows neither the model nor
who scores the windows, or when.
"""

from collections.abc import Generator, Sequence
from typing import Literal, get_args

from model.config import check_window
from model.errors import WindowError

Windows = Generator[list[tuple[int, ...]], Sequence[Sequence[int]], tuple[int, ...]]
WindowStrategy = Literal["sliding", "tournament"]


def choose_windows(strategy: str, page_count: int, *, window_size: int, stride: int) -> Windows:
    """`sliding`, the published one, or `tournament`, which has fewer windows, side by side, and ignores the stride.

    Raises: WindowError.
    """
    if strategy == "sliding":
        return sliding_windows(page_count, window_size=window_size, stride=stride)
    if strategy == "tournament":
        return tournament(page_count, window_size=window_size)
    raise WindowError(f"strategy is {strategy!r}; it must be one of {', '.join(get_args(WindowStrategy))}.")


def sliding_windows(page_count: int, *, window_size: int, stride: int) -> Windows:
    """The published procedure: from the back of the list to the front, each window reordered in place.

    The best pages bubble to the front; consecutive windows share `window_size - stride` pages. One window a turn.
    Raises: WindowError.  Source: arXiv 2605.11864, arXiv 2304.09542.
    """
    check_window(window_size, stride)
    order = list(range(page_count))
    end = page_count
    while True:
        start = max(end - window_size, 0)
        [ranked] = yield from _ranked([order[start:end]])
        order[start:end] = ranked
        if start == 0:
            return tuple(order)
        end -= stride


def tournament(page_count: int, *, window_size: int) -> Windows:
    """Groups side by side, then one window of the best of each: ceil(n / w) + 1 windows in two turns, up to n = w².

    Pages are dealt to the groups in turn, so that pages that came first do not meet in one group. Of a page order by
    relevance the first floor(w / groups) places come out right. Behind the last window's pages come the others by their place
    in their group.  Raises: WindowError.  Source: a shallow form of top-down partitioning, arXiv 2405.14589.
    """
    check_window(window_size, window_size)
    if window_size == 1:  # nothing is ever compared
        return (yield from sliding_windows(page_count, window_size=1, stride=1))
    finalists = list(range(page_count))
    eliminated: list[list[int]] = []
    while len(finalists) > window_size:
        group_count = -(-len(finalists) // window_size)
        groups = yield from _ranked([finalists[first::group_count] for first in range(group_count)])
        places = max(1, window_size // group_count)
        finalists = _by_place([group[:places] for group in groups])
        eliminated.append(_by_place([group[places:] for group in groups]))
    [order] = yield from _ranked([finalists])
    return (*order, *(page for pages in reversed(eliminated) for page in pages))


def _by_place(groups: Sequence[Sequence[int]]) -> list[int]:
    """All firsts, then all seconds, and so on; within a place in the order of the groups."""
    longest = max(map(len, groups))
    return [group[place] for place in range(longest) for group in groups if place < len(group)]


def _ranked(
    windows: Sequence[Sequence[int]],
) -> Generator[list[tuple[int, ...]], Sequence[Sequence[int]], list[list[int]]]:
    """One turn: the windows' pages in the orders that come back."""
    orders = yield [tuple(window) for window in windows]
    for window, order in zip(windows, orders, strict=True):
        assert sorted(order) == list(range(len(window))), "a window's order must name each of its pages once"
    return [[window[index] for index in order] for window, order in zip(windows, orders, strict=True)]
